"""What is written down: records, columns, configuration and errors. No Ray, no torch, no I/O but the config file."""

__version__ = "0.1.0"
