"""Two selectors on the same prompts: what one loses against the other, and how surely."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from indexer_lab.statistics.bootstrap import FEWEST_CLUSTERS, Interval, bootstrap
from indexer_lab.statistics.mean import mean

YES_OR_NO = ("score", "agreement", "top1")
"""Measures whose prompts can all be alike by chance; a difference lies between -1 and 1."""
BETTER_LOW = ("output_error", "kl", "delta_nll", "bits_per_byte", "nll")


def by_prompt(rows: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Mean of each measure by selector and sample: what one prompt says of one selector."""
    return rows.groupby(["selector", "sample"], observed=True)[measures].mean().reset_index()


def losses(prompts: pd.DataFrame, measure: str, selector: str, reference: str) -> pd.Series:
    """By sample: how much worse the selector is than the reference; positive is worse.

    prompts: a row a selector and sample. Samples that lack either are left out.
    """
    wide = prompts.pivot(index="sample", columns="selector", values=measure)
    absent = [name for name in (selector, reference) if name not in wide]
    if absent:
        return pd.Series(dtype=float)
    sign = -1.0 if measure in BETTER_LOW else 1.0
    return (sign * (wide[reference] - wide[selector])).dropna()


def interval(found: pd.Series, measure: str, seed: int, lowest: float = -1.0) -> Interval:
    """Mean of a column by prompt, such as a loss, with its 95 % interval over prompts.

    lowest: that an answer's value can be: -1 for a loss, 0 for the share of right ones.
    """
    values, groups = found.to_numpy(float), found.index.to_numpy()
    if not len(values):
        return Interval(math.nan, math.nan, math.nan, math.nan, 0, 0.95, "no prompt has both")
    if measure in YES_OR_NO:
        return mean(values, groups, lowest=lowest, highest=1.0, seed=seed)
    return bootstrap(lambda rows: float(values[rows].mean()), groups, seed=seed)


def prompts_needed(found: pd.Series, measure: str) -> float:
    """Prompts from which a 95 % interval of the mean would leave 0 out, at the spread seen here.

    (1.96 s / m)^2 of mean m and standard deviation s, not rounded: one is enough under 1, and what
    needs less shows more clearly. inf for a mean of 0; nan under FEWEST_CLUSTERS prompts. Answers
    that are all alike show no spread by chance, so one more prompt is taken to lose nothing.
    """
    values = found.to_numpy(float)
    if len(values) < FEWEST_CLUSTERS:
        return math.nan
    if measure in YES_OR_NO:
        values = np.append(values, 0.0)
    centre, spread = float(values.mean()), float(values.std(ddof=1))
    if centre == 0:
        return math.inf
    return (1.96 * spread / centre) ** 2
