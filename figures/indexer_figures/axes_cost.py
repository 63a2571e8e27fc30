"""A logarithmic cost axis with a place for selectors that cost nothing."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from indexer_figures.words import quantity

_LABEL, _LETTER = 0.41, 0.07  # inches for "500 k" and the gap after it, and for a unit's letter


def place_costs(costs: pd.Series) -> pd.Series:
    """Costs as plotted: 0, which has no logarithm, goes a gap to the left of the smallest."""
    positive = costs[costs > 0]
    if positive.empty:
        return costs.where(costs.isna(), 1.0)
    gap = max((positive.max() / positive.min()) ** 0.12, 2.0)
    return costs.mask(costs == 0, positive.min() / gap)


def cost_axis(ax: Axes, table: pd.DataFrame, unit: str, inches: float) -> None:
    """Scale and label x; where a cost of 0 was placed, its tick says 0 and a line sets it apart."""
    known = table[table["plotted_cost"].notna()]
    low, high = known["plotted_cost"].min(), known["plotted_cost"].max()
    free = known["plotted_cost"][known["cost"] == 0]
    positive = known["cost"][known["cost"] > 0]
    ax.set_xscale("log")
    pad = max((high / low) ** 0.06, 1.3)
    ax.set_xlim(low / pad, high * pad)
    per_inch = np.log(high * pad * pad / low) / inches
    apart = (_LABEL + _LETTER * len(unit)) * per_inch
    ticks = _ticks(positive.min(), high * pad, apart) if len(positive) else []
    labels = [quantity(tick, unit) for tick in ticks]
    if len(free):
        ticks, labels = [float(free.iloc[0]), *ticks], ["0", *labels]
        if len(positive):
            edge = np.sqrt(free.iloc[0] * positive.min())
            ax.axvline(edge, color="#b0b0b0", linewidth=0.6, linestyle=(0, (1, 2)), label="_zero")
    ax.set_xticks(ticks, labels)
    ax.set_xticks([], minor=True)


def _ticks(low: float, high: float, apart: float) -> list[float]:
    """Round numbers from low to high whose logarithms lie `apart` or more: the most that fit."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    best: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,), (2,), (5,)):
        every = [step * 10.0**power for power in powers for step in steps]
        inside = [tick for tick in every if low * 0.999 <= tick <= high]
        if len(inside) > len(best) and (np.diff(np.log(inside)) >= apart).all():
            best = inside
    decades = [10.0**power for power in powers if low <= 10.0**power <= high]
    return best or decades[:: int(np.ceil(apart / np.log(10)))] or [float(f"{low:.2g}")]
