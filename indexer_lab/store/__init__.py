"""Captures and tables on disk."""
