"""The quality table in a few lines: what each selector costs at each budget."""

from __future__ import annotations

import pandas as pd

KEYS = ["mode", "budget", "layer", "selector"]
SHOWN = {
    "replay": ["delta_nll", "kl", "agreement"],
    "decode": ["score", "tokens"],
    "prefill+decode": ["score", "tokens"],
}
"""The columns that a mode fills."""


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, median, p90 and largest of every column over the samples, one row per KEYS.

    frame:   quality rows.
    returns: KEYS, `samples`, and `<column>_<stat>`; dense first, then by budget, all layers before
             single ones, selectors in the order of the rows.
    """
    columns = list(dict.fromkeys(name for names in SHOWN.values() for name in names))
    groups = frame.groupby(KEYS, sort=False)
    parts = {"samples": groups.size()}
    for name in columns:
        values = groups[name]
        parts[f"{name}_mean"] = values.mean()
        parts[f"{name}_median"] = values.median()
        parts[f"{name}_p90"] = values.quantile(0.9)
        parts[f"{name}_max"] = values.max()
    table = pd.DataFrame(parts).reset_index()
    table["_mode"] = table["mode"].map(list(SHOWN).index)
    ordered = table.sort_values(["_mode", "budget", "layer"], kind="stable")
    return ordered.drop(columns="_mode").reset_index(drop=True)
