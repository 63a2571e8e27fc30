"""Every measure the score table holds: one function and one line here.

A fact is a function of a Block (the exact attention alone), a measure a function of an Answer (a
selector's support beside the exact one). Both return float32 [head, row].
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from indexer_lab.measures import attention, overlap, ranking, spread, validity
from indexer_lab.measures.answer import Answer
from indexer_lab.measures.ground import Block, Ground

FACTS: dict[str, Callable[[Block], Tensor]] = {
    "entropy": spread.entropy,
    "effective_support": spread.effective_support,
    "keys_90": spread.keys_90,
    "keys_95": spread.keys_95,
    "keys_99": spread.keys_99,
}

MEASURES: dict[str, Callable[[Answer], Tensor]] = {
    "recall": overlap.recall,
    "jaccard": overlap.jaccard,
    "mass": attention.mass,
    "mass_ratio": attention.mass_ratio,
    "kl": attention.kl,
    "output_error": attention.output_error,
    "output_bound": attention.output_bound,
    "top1": overlap.top1,
    "rank_correlation": ranking.rank_correlation,
    "ndcg": ranking.ndcg,
    "boundary_gap": spread.boundary_gap,
    "recall_sink": overlap.recall_sink,
    "recall_local": overlap.recall_local,
    "recall_far": overlap.recall_far,
    "duplicates": validity.duplicates,
    "future": validity.future,
    "out_of_range": validity.out_of_range,
    "missing": validity.missing,
}

UNITS: dict[str, str] = {
    "entropy": "nats",
    "effective_support": "keys",
    "keys_90": "keys",
    "keys_95": "keys",
    "keys_99": "keys",
    "kl": "nats",
    "boundary_gap": "the target's own",
    "duplicates": "places",
    "future": "places",
    "out_of_range": "places",
    "missing": "places",
}
"""Units by name; a measure that is not here is a plain ratio or coefficient."""

__all__ = ["FACTS", "MEASURES", "UNITS", "Answer", "Block", "Ground"]
