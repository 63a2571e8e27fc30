"""Llama: dense causal attention with grouped key heads."""

from __future__ import annotations

from indexer_probes.families.base import Family

FAMILY = Family("dense, grouped key heads")
