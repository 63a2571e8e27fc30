"""The exact top-k of a target: the ceiling that every other selector is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from indexer_lab.backend import Backend, use_kernels
from indexer_lab.selectors.base import Cost, Ranker, ScoreRanker, Support, bytes_per_key
from indexer_lab.targets import Target, target
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Exact:
    """The exact top-k of a target: reads every key, misses none.

    backend: auto for kernels on a GPU, or triton or torch; docs/kernels.md says what each computes.
    """

    ranks_units: ClassVar[bool] = True

    target: str = "per_head"
    backend: Backend = "auto"

    def fit(self, record: LayerRecord) -> Ranker:
        goal = target(self.target)
        kernels = use_kernels(self.backend, record.queries.device)
        if goal.by_budget:
            return _EveryBudget(record, goal, self.backend)
        return ScoreRanker(
            record,
            lambda rows: goal.chunk(record, rows, 1),
            goal.sets(record),
            kernel=(lambda budget: goal.top(record, budget, self.backend)) if kernels else None,
            masked=True,
        )

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """All keys once in the stored dtype, beside compressed entries those of the window and the
        entries; one multiply-add a head, key and dimension."""
        dim, keys = record.queries.shape[-1], record.length
        if record.entries is not None:
            keys = min(keys, record.mask.window or keys) + record.entries.count
        return Cost(
            bytes_read=bytes_per_key(record) * keys,
            multiply_adds=float(record.heads * keys * dim),
        )


@dataclass(frozen=True)
class _EveryBudget:
    """A target whose values change with the budget is ranked anew for each."""

    record: LayerRecord
    goal: Target
    backend: Backend

    def scores(self, rows: slice) -> Tensor | None:
        return None

    def top(self, budget: int) -> Support:
        return self.goal.top(self.record, budget, self.backend)
