"""Small score tables, made by rule, for every figure test."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

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


@pytest.fixture(scope="session")
def check_texts() -> Callable[[Figure], None]:
    """A function that fails where a text leaves the canvas or runs into another."""

    def check(figure: Figure) -> None:
        figure.canvas.draw()
        boxes = _text_boxes(figure)
        assert len(boxes) > 5
        width, height = figure.get_size_inches() * figure.dpi
        for text, box in boxes:
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
            assert inside, f"{text!r} leaves the canvas"
        for (one, a), (other, b) in itertools.combinations(boxes, 2):
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            tall = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert wide <= 2 or tall <= 2, f"{one!r} runs into {other!r}"

    return check


def _text_boxes(figure: Figure) -> list[tuple[str, object]]:
    texts = list(figure.texts)
    for legend in figure.legends:
        texts += legend.get_texts()
    for ax in figure.axes:
        if ax.get_visible():
            texts += _axes_texts(ax)
            for child in ax.child_axes:
                texts += _axes_texts(child)
    renderer = figure.canvas.get_renderer()
    shown = [text for text in texts if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in shown]


def _axes_texts(ax: Axes) -> list[Text]:
    texts = [*ax.texts, ax.title, *(text for text in ax.get_children() if isinstance(text, Text))]
    for axis in (ax.xaxis, ax.yaxis):
        if not axis.get_visible():
            continue
        low, high = sorted(axis.get_view_interval())
        texts.append(axis.label)
        for tick in axis.get_major_ticks():
            if low <= tick.get_loc() <= high:
                texts += [tick.label1, tick.label2]
    return list(dict.fromkeys(texts))
