"""Sentences built from plotted numbers."""

import pandas as pd

from indexer_figures.styles import is_baseline


def leader(table: pd.DataFrame, column: str) -> pd.Series:
    """The row with the highest value, baselines aside unless nothing else is there."""
    known = table[table[column].notna()]
    others = known[~known["selector"].map(is_baseline)]
    pool = others if len(others) else known
    return pool.loc[pool[column].idxmax()]


def random_at(table: pd.DataFrame, column: str) -> float | None:
    """The plain random baseline's value in a table with one row a selector, if it is there."""
    rows = table[(table["selector"] == "random") & table[column].notna()]
    return float(rows[column].iloc[0]) if len(rows) else None
