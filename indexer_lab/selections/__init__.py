"""Selections that a serving engine made, read and fitted to a capture."""
