"""Spread work over machines: the only package that imports Ray."""
