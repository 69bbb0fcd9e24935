"""Training: nested losses, models, data, the loop that runs them, and heads on frozen encoders.

Owns everything that makes weights. Refuses to spread work over machines: a process group that stands when `fit` is
called is used, none is ever made here.
"""
