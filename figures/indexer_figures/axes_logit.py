"""A logit axis that shows perfect and zero recall without hiding that they lie at infinity."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator
from numpy.typing import NDArray

_TICKS = (
    1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999,
)  # fmt: skip
_INCHES = 1.9  # an axis' usual height
_APART = 0.14  # inches between two tick labels


def squeeze(shares: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Shares with 1 and 0 moved to where the axis ends.

    The end is half a row away from 1, at 1 − 1/(2·rows); where some share that is not 1 lies
    beyond, the end is half of that share's distance, so that only a true 1 is drawn as 1.
    """
    values = shares.to_numpy(float)
    half_row = 1 / (2 * rows) if rows > 1 else 0.25
    under = values[(values < 1) & np.isfinite(values)]
    over = values[(values > 0) & np.isfinite(values)]
    to_one = min(half_row, (1 - under.max()) / 2) if under.size else half_row
    to_zero = min(half_row, over.min() / 2) if over.size else half_row
    return shares.astype(float).replace({1.0: 1 - to_one, 0.0: to_zero})


def logit_axis(ax: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Put a logit scale on y, with ticks `1.0` and `0` where squeezed values were drawn."""
    plotted = table[[f"plotted_{name}" for name in names]].to_numpy(float).ravel()
    true = table[list(names)].to_numpy(float).ravel()
    plotted, true = plotted[np.isfinite(plotted)], true[np.isfinite(true)]
    ax.set_yscale("logit")
    low, high = _limits(plotted)
    ax.set_ylim(low, high)
    ends = {plotted.max(): "1.0"} if (true == 1).any() else {}
    if (true == 0).any():
        ends[plotted.min()] = "0"
    ticks = _ticks(low, high, list(ends))
    ax.set_yticks([*ticks, *ends], [*(f"{tick:g}" for tick in ticks), *ends.values()])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_formatter(NullFormatter())
    for end in ends:
        ax.axhline(end, color="#b0b0b0", linewidth=0.6, linestyle=(0, (1, 2)), zorder=1,
                   label="_end")  # fmt: skip


def _logit(share: float) -> float:
    return float(np.log(share) - np.log1p(-share))


def _limits(plotted: NDArray[np.float64]) -> tuple[float, float]:
    low, high = _logit(plotted.min()), _logit(plotted.max())
    pad = max(0.05 * (high - low), 0.3)
    return 1 / (1 + np.exp(pad - low)), 1 / (1 + np.exp(-high - pad))


def _ticks(low: float, high: float, ends: Sequence[float]) -> list[float]:
    """The usual ticks inside the axis that keep clear of its ends and of each other."""
    per_inch = (_logit(high) - _logit(low)) / _INCHES
    inside = [tick for tick in _TICKS if low <= tick <= high]
    if len(inside) < 2:
        inside = [tick for tick in np.arange(5, 100, 5) / 100 if low <= tick <= high]
    kept: list[float] = []
    for tick in sorted(inside, key=lambda tick: abs(_logit(tick))):
        if all(abs(_logit(tick) - _logit(other)) > _APART * per_inch for other in [*ends, *kept]):
            kept.append(float(tick))
    return sorted(kept)
