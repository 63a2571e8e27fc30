"""What a script must know of a model before it runs one."""

from __future__ import annotations

from indexer_lab.reference import resolve
from indexer_probes.loading import load_config


def has_indexer(model: str) -> bool:
    """Whether a shipped model, folder or hub id has a Lightning Indexer. Raises ProbeError."""
    return hasattr(load_config(resolve(model), None, False), "index_topk")
