"""Small score tables, made by rule, for every figure test."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

BASELINES = ("exact", "random", "sink_recent")


def _level(selector: str, order: int) -> float:
    return {"exact": 1.0, "random": 0.1, "sink_recent": 0.4}.get(selector, 0.95 - 0.07 * order)


def _rows(
    selector: str, order: int, layer: int, head: int, budget: int, count: int
) -> dict[str, Any]:
    steps = np.arange(count)
    position = 99 + 100 * steps
    recall = np.full(count, _level(selector, order))
    if selector != "exact":
        recall = np.round(np.clip(recall - 0.03 * (steps % 3) - 0.01 * layer, 0, 1) * 64) / 64
    costs = {"exact": 2.0e6, "random": 0.0, "sink_recent": 0.0}
    return {
        "sample": "s0", "task": "needles", "length": 4096, "layer": layer, "head": head,
        "position": position, "visible": position + 1, "trivial": position + 1 <= budget,
        "selector": selector, "target": "head_sum", "level": "token", "budget": budget,
        "recall": recall, "mass": recall**0.5, "entropy": 1.0 + 0.1 * steps + 0.05 * layer,
        "recall_sink": np.where(steps % 4 == 0, np.nan, recall), "recall_local": recall,
        "recall_far": recall * 0.9, "bytes_read": costs.get(selector, 4e5 / (order + 1)),
        "multiply_adds": costs.get(selector, 1e6 * (order + 1)),
    }  # fmt: skip


@pytest.fixture(scope="session")
def make_scores() -> Callable[..., pd.DataFrame]:
    """A function that makes a score table of the given shape."""

    def make(
        selectors: Sequence[str] = ("lightning",),
        layers: Sequence[int] = (0, 1, 2),
        heads: int = 1,
        budgets: Sequence[int] = (64, 256),
        count: int = 12,
        baselines: Sequence[str] = BASELINES,
    ) -> pd.DataFrame:
        parts = [
            pd.DataFrame(_rows(selector, order, layer, head, budget, count))
            for order, selector in enumerate([*selectors, *baselines])
            for layer in layers
            for head in range(heads)
            for budget in budgets
        ]
        return pd.concat(parts, ignore_index=True)

    return make


@pytest.fixture(scope="session")
def scores(make_scores: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    """Two selectors and the baselines, three layers, two heads, two budgets."""
    return make_scores(("lightning", "lightning:precision=fp8"), heads=2)
