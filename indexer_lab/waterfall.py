"""Where a selector's attention mass is lost: the budget, one set for all heads, the indexer, its
precision. Every step is the difference of two mean masses over the same query rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

INDEXERS = ("lightning", "native", "recorded")
"""Selectors that stand for a native indexer: one set for all heads, trained to match `head_sum`."""


@dataclass(frozen=True)
class Step:
    """One loss: `lost` is the share of the attention mass that goes there, negative for a gain."""

    name: str
    lost: float


@dataclass(frozen=True)
class Waterfall:
    """From full attention down to what one selector keeps at one budget.

    kept: mean mass on the selector's keys; rows: query rows that every step is a mean over.
    """

    selector: str
    budget: int
    rows: int
    steps: tuple[Step, ...]
    kept: float

    @property
    def rest(self) -> float:
        """1 less all losses less what is kept: zero but for rounding."""
        return 1.0 - sum(step.lost for step in self.steps) - self.kept


def waterfalls(scores: pd.DataFrame) -> list[Waterfall]:
    """One for each budget and indexer of a score table; empty where it holds no indexer, or was
    not scored on both `per_head` and `head_sum`, whose exact sets are the first two steps.

    scores: `target`, `budget`, `selector`, `trivial` and `mass`; trivial rows are left out. A chain
            whose steps do not rest on equally many rows with a mass is left out too.
    """
    counted = scores[~scores["trivial"]]
    groups = counted.groupby(["budget", "target", "selector"], observed=True)["mass"]
    means, rows = groups.mean(), groups.count()
    return [
        fall
        for budget in sorted(set(counted["budget"]))
        for chain in _chains(sorted(set(counted["selector"].astype(str))))
        if (fall := _fall(means, rows, int(budget), chain)) is not None
    ]


Chain = list[tuple[str, str, str]]
"""Step name, target and selector whose mass the step leads to."""


def _chains(selectors: list[str]) -> Iterator[Chain]:
    start = [
        ("the budget", "per_head", "exact"),
        ("one set for all heads", "head_sum", "exact"),
    ]
    for label in selectors:
        name, _, settings = label.partition(":")
        if name not in INDEXERS:
            continue
        plain = [("the indexer", "head_sum", name)] if settings and name in selectors else []
        last = settings if plain else "the indexer"
        yield [*start, *plain, (last, "head_sum", label)]


def _fall(means: pd.Series, rows: pd.Series, budget: int, chain: Chain) -> Waterfall | None:
    keys = [(budget, target, selector) for _, target, selector in chain]
    if not all(key in means.index for key in keys):
        return None
    counts = {int(rows[key]) for key in keys}
    if len(counts) != 1 or 0 in counts:
        return None
    levels = [1.0, *(float(means[key]) for key in keys)]
    steps = [
        Step(name, before - after)
        for (name, _, _), before, after in zip(chain, levels, levels[1:], strict=False)
    ]
    return Waterfall(chain[-1][2], budget, counts.pop(), tuple(steps), levels[-1])
