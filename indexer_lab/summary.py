"""Aggregates of a score table: never a mean alone, trivial rows left out and counted."""

from __future__ import annotations

import pandas as pd

KEYS = ["target", "level", "budget", "selector"]
SHOWN = ["recall", "mass", "output_error"]
LOWER_IS_BETTER = {"kl", "output_error", "output_bound"}


def summarise(scores: pd.DataFrame, measures: list[str] | None = None) -> pd.DataFrame:
    """One row per target, level, budget and selector.

    Columns: rows (that count), trivial (share left out), sets (1: all heads share the selection),
    then for each measure its mean, median,
    p10, p1 and worst as `recall_mean` …; for an error the tail is p90, p99 and the largest value,
    under the same names. NaN where no row counts.
    """
    measures = measures or SHOWN
    grouped = scores.groupby(KEYS, observed=True, sort=True)
    counting = scores[~scores["trivial"]].groupby(KEYS, observed=True, sort=True)
    parts = [
        grouped.size().rename("all"),
        counting.size().rename("rows"),
        grouped["trivial"].mean().rename("trivial"),
        grouped["sets"].first().rename("sets"),
    ]
    for measure in measures:
        tail = (0.9, 0.99, 1.0) if measure in LOWER_IS_BETTER else (0.1, 0.01, 0.0)
        column = counting[measure]
        parts += [
            column.mean().rename(f"{measure}_mean"),
            column.median().rename(f"{measure}_median"),
        ]
        for share, name in zip(tail, ("p10", "p1", "worst"), strict=True):
            parts.append(column.quantile(share).rename(f"{measure}_{name}"))
    table = pd.concat(parts, axis=1).reset_index()
    table["rows"] = table["rows"].fillna(0).astype(int)
    return table.drop(columns="all")
