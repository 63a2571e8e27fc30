"""The error a user of the probes can cause."""

from __future__ import annotations


class ProbeError(ValueError):
    """A model, an input or a setting that cannot be captured: says which, why, and what to do."""
