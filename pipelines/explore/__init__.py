"""Explore a table on a local page: ask it, and see what fewer dims and fewer candidates cost and save."""

from __future__ import annotations
