"""What a relation says, in one sentence."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

FEW = 30
"""Prompts below which an interval is not to be believed."""


def spoken(relations: pd.DataFrame, notes: dict[str, Any]) -> str:
    """How quality went with recall, and how much these prompts can say of it.

    relations: the table of `relating.relations`; notes: those of `relating.Joined`.
    """
    rows = relations[(relations["x"] == "recall") & (relations["method"] == "spearman")]
    held = rows["held"].fillna("")
    row = rows[(rows["question"] == "quality") & (held == "")].iloc[0]
    prompts, pairs = notes["prompts"], notes["pairs"]
    few = (
        f"{prompts} prompts are far too few to believe an interval; run quality and relate with "
        "more --samples"
        if prompts < FEW
        else f"the interval resamples {prompts} prompts"
    )
    if math.isnan(row["estimate"]):
        return f"no correlation of quality with recall over {pairs} pairs: {row['reason']}; {few}"
    known = math.isfinite(row["low"])
    span = f" (95 % interval {row['low']:.2f} to {row['high']:.2f})" if known else ""
    return (
        f"over {pairs} pairs of {prompts} prompts, {notes['quality']} with the dense model goes "
        f"with recall by Spearman's rho {row['estimate']:.2f}{span}; {few}"
    )
