"""FAISS along a running sequence: trained and filled once on the prompt, extended by each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Ranker, Support
from indexer_lab.selectors.faiss_engine import refusals, same_threads
from indexer_lab.selectors.faiss_grow import Growing
from indexer_probes.records import LayerRecord

Train = Callable[[np.ndarray], Any]
"""Keys float32 [key, dim] -> an empty index that was trained on them."""


@dataclass(frozen=True)
class FaissFollower:
    """The indexes of every layer of one sequence.

    prompts: layer -> indexes trained on the keys before the first query, and holding them; shared
             with the followers of other continuations.
    grown:   layer -> the indexes of this continuation.
    A first record that begins at position 0 is a prefill: it trains on all of its keys.
    """

    factory: str
    gpu: bool
    train: Train
    prompts: dict[int, list[Growing]] = field(default_factory=dict)
    grown: dict[int, list[Growing]] = field(default_factory=dict)

    def fit(self, record: LayerRecord) -> Ranker:
        first = int(record.positions[0])
        with same_threads(), refusals(self.factory):
            if record.layer not in self.prompts:
                self.prompts[record.layer] = self._built(record, first)
            if record.layer not in self.grown:
                built = self.prompts[record.layer]
                self.grown[record.layer] = [each.copy(self.gpu) for each in built]
        grown = self.grown[record.layer]
        if grown[0].held > first:
            raise InputError(
                f"faiss {self.factory!r}, layer {record.layer}: its index holds {grown[0].held} "
                f"keys and cannot go back to position {first}; follow the sequence forwards"
            )
        return _GrowingRanker(self.factory, record, grown)

    def again(self) -> FaissFollower:
        return FaissFollower(self.factory, self.gpu, self.train, self.prompts)

    def _built(self, record: LayerRecord, first: int) -> list[Growing]:
        built = []
        for keys in arrays(record, record.float_keys, "keys"):
            growing = Growing(self.train(np.ascontiguousarray(keys[: first or len(keys)])))
            growing.add(keys, first)
            built.append(growing)
        return built


@dataclass(frozen=True)
class _GrowingRanker:
    """Searches once: an index that moved on with the queries cannot be asked again."""

    factory: str
    record: LayerRecord
    grown: list[Growing]
    _found: dict[int, Support] = field(default_factory=dict)

    def scores(self, rows: slice) -> Tensor | None:
        return None

    def top(self, budget: int) -> Support:
        if self._found and budget not in self._found:
            raise InputError(
                f"faiss {self.factory!r}: budget {budget} after {next(iter(self._found))} on one "
                "forward; follow each budget with a selector of its own"
            )
        if budget not in self._found:
            record, group = self.record, self.record.group
            keys = arrays(record, record.float_keys, "keys")
            queries = arrays(record, record.queries.float(), "queries")
            with same_threads(), refusals(self.factory):
                heads = [
                    each.search(keys[n], queries[n * group : (n + 1) * group], record, budget)
                    for n, each in enumerate(self.grown)
                ]
            support = torch.from_numpy(np.concatenate(heads))
            self._found[budget] = support.to(record.queries.device)
        return self._found[budget]


def arrays(record: LayerRecord, operand: Tensor, name: str) -> np.ndarray:
    """float32 on the CPU. Raises InputError for NaN and infinity, which FAISS would take."""
    values: np.ndarray = operand.detach().cpu().numpy()
    if not np.isfinite(values).all():
        raise InputError(f"layer {record.layer}: {name} hold NaN or infinity")
    return values
