"""Finished folders in, one HTML file out: readable offline, without this repository."""
