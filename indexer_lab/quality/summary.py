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

BETTER_HIGH = ("agreement", "score")


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, median, bad tenth and worst of every column over the samples, one row per KEYS.

    frame:   quality rows.
    returns: KEYS, `samples`, and `<column>_<stat>`; a tenth of the samples are beyond `tenth`, on
             the bad side, and `worst` is the last one there. Dense first, then by budget, all
             layers before single ones, selectors in the order of the rows.
    """
    columns = list(dict.fromkeys(name for names in SHOWN.values() for name in names))
    groups = frame.groupby(KEYS, sort=False)
    parts = {"samples": groups.size()}
    for name in columns:
        values = groups[name]
        parts[f"{name}_mean"] = values.mean()
        parts[f"{name}_median"] = values.median()
        high = name in BETTER_HIGH
        parts[f"{name}_tenth"] = values.quantile(0.1 if high else 0.9)
        parts[f"{name}_worst"] = values.min() if high else values.max()
    table = pd.DataFrame(parts).reset_index()
    table["_mode"] = table["mode"].map(list(SHOWN).index)
    ordered = table.sort_values(["_mode", "budget", "layer"], kind="stable")
    return ordered.drop(columns="_mode").reset_index(drop=True)
