"""What spreads work over machines: the only place that imports Ray."""
