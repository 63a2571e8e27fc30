"""Ticks that never run into each other."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

_SHARES = [step * 10.0**power for power in range(-6, 1) for step in (1, 2, 5)]
_STRIDES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_DIGIT = 0.062  # inches, one digit at 7 points
_GAP = 0.09  # inches between two labels


def spread(
    values: Sequence[int], places: Sequence[float], inches: float, *, upright: bool = False
) -> list[int]:
    """Indices of the whole numbers to label along an axis of `inches`.

    places: where each value lies, from 0 to 1. Evenly spaced values are labelled at multiples of
    1, 2, 5, 10 …; others (gaps) from the left while there is room.
    upright: the axis is vertical, so that a label's height counts, not its width.
    """
    evenly = len(set(np.diff(values))) == 1
    for stride in _STRIDES if evenly else ():
        chosen = [i for i, value in enumerate(values) if value % stride == 0]
        if len(chosen) < 2:
            break
        if _fits(chosen, values, places, inches, upright):
            return chosen
    return _greedy(values, places, inches, upright)


def _room(value: int, upright: bool) -> float:
    return 0.11 if upright else len(f"{value:,}") * _DIGIT


def _apart(
    i: int, j: int, values: Sequence[int], places: Sequence[float], inches: float, upright: bool
) -> bool:
    need = (_room(values[i], upright) + _room(values[j], upright)) / 2
    return abs(places[j] - places[i]) * inches >= need + (0.02 if upright else _GAP)


def _fits(
    chosen: Sequence[int],
    values: Sequence[int],
    places: Sequence[float],
    inches: float,
    upright: bool,
) -> bool:
    pairs = pairwise(chosen)
    return all(_apart(i, j, values, places, inches, upright) for i, j in pairs)


def _greedy(
    values: Sequence[int], places: Sequence[float], inches: float, upright: bool
) -> list[int]:
    chosen: list[int] = []
    for i in range(len(values)):
        if not chosen or _apart(chosen[-1], i, values, places, inches, upright):
            chosen.append(i)
    return chosen


def layer_axis(ax: Axes, layers: Sequence[int], inches: float) -> None:
    """A linear axis labelled at layers that were captured."""
    low, high = min(layers), max(layers)
    width = max(high - low, 1)
    ax.set_xlim(low - 0.04 * width - 0.1, high + 0.04 * width + 0.1)
    places = [(layer - low) / width for layer in layers]
    _label(ax, layers, spread(layers, places, inches))


def budget_axis(ax: Axes, budgets: Sequence[int], inches: float) -> None:
    """A base-2 logarithmic axis labelled at budgets that were scored."""
    logs = np.log2(budgets)
    ax.set_xscale("log", base=2)
    pad = max(0.05 * (logs[-1] - logs[0]), 0.15)
    ax.set_xlim(2 ** (logs[0] - pad), 2 ** (logs[-1] + pad))
    width = logs[-1] - logs[0] or 1.0
    places = [float((log - logs[0]) / width) for log in logs]
    _label(ax, budgets, _greedy(budgets, places, inches * 0.9, False))


def _label(ax: Axes, values: Sequence[int], chosen: Sequence[int]) -> None:
    ax.set_xticks([values[i] for i in chosen], [f"{values[i]:,}" for i in chosen])
    ax.set_xticks([], minor=True)


def ratio_axis(ax: Axes, ratios: pd.Series, inches: float) -> None:
    """A log axis of shares, labelled in per cent as far as `inches` have room."""
    low, high = np.log10(ratios.min()), np.log10(ratios.max())
    pad = max(0.08 * (high - low), 0.15)
    low, high = low - pad, high + pad
    ax.set_xscale("log")
    ax.set_xlim(10**low, 10**high)
    chosen: list[float] = []
    for value in _SHARES:
        place = (np.log10(value) - low) / (high - low)
        last = (np.log10(chosen[-1]) - low) / (high - low) if chosen else -np.inf
        if 0 <= place <= 1 and (place - last) * inches >= 0.5:
            chosen.append(value)
    if not chosen:
        chosen = [float(ratios.iloc[0])]
    ax.set_xticks(chosen, [f"{100 * value:.3g} %" for value in chosen])
    ax.set_xticks([], minor=True)
