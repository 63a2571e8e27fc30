"""A FAISS index that takes keys as the sequence grows, and is asked before any later key is in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer_lab.selectors.faiss_engine import faiss_module, to_gpu
from indexer_lab.selectors.faiss_search import lookup
from indexer_probes.records import LayerRecord


@dataclass
class Growing:
    """The index of one key head, and how many of its keys it holds."""

    index: Any
    held: int = 0

    def add(self, keys: np.ndarray, stop: int) -> None:
        """Adds those of keys float32 [key, dim] before `stop` that are not in yet."""
        if stop > self.held:
            self.index.add(np.ascontiguousarray(keys[self.held : stop]))
            self.held = stop

    def search(
        self, keys: np.ndarray, queries: np.ndarray, record: LayerRecord, budget: int
    ) -> np.ndarray:
        """int64 [group, query, budget]: what queries float32 [group, query, dim] find, each with
        the keys up to its own position in the index."""
        by_row = np.ascontiguousarray(queries.swapaxes(0, 1))  # (query, group, dim)
        found = np.full((queries.shape[0], record.rows, budget), -1, dtype=np.int64)
        for row, position in enumerate(record.positions.tolist()):
            self.add(keys, position + 1)
            first = max(0, self.held - record.mask.window) if record.mask.window else 0
            found[:, row] = lookup(self.index, by_row[row], budget, first, self.held)
        return found

    def copy(self, gpu: bool) -> Growing:
        """Another one with the same keys, on the first GPU if asked."""
        index = faiss_module().clone_index(self.index)
        return Growing(to_gpu(index) if gpu else index, self.held)
