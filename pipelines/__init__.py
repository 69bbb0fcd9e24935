"""What is done to data, on one machine. Never imports Ray."""
