"""Vectors as numbers: prefixes, rotations, and conversion between Arrow and numpy."""
