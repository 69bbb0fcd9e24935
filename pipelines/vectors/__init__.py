"""Vectors as numbers: cutting, rotating, and their way between Arrow and numpy."""
