"""The quality table in a few lines: what each selector costs at each budget, and how fast it is."""

from __future__ import annotations

import pandas as pd

KEYS = ["mode", "budget", "layer", "selector"]
FORCED = ["delta_nll", "kl", "agreement", "bits_per_byte"]
SHOWN = {
    "replay": FORCED,
    "decode": ["score", "tokens", *FORCED],
    "prefill+decode": ["score", "tokens", *FORCED],
}
"""The columns that a mode fills; a text is forced in every mode."""

BETTER_HIGH = ("agreement", "score")


def summarise(frame: pd.DataFrame, speed: pd.DataFrame | None = None) -> pd.DataFrame:
    """Mean, median, bad tenth and worst of every column over the samples, one row per KEYS.

    frame:   quality rows; speed: their speeds, None where they were not taken.
    returns: KEYS, `samples`, and `<column>_<stat>`; a tenth of the samples are beyond `tenth`, on
             the bad side, and `worst` is the last one there. `tokens_per_second` is all tokens
             over all time, `speed_ratio` that over dense's. Dense first, then by budget, all
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
    table = pd.DataFrame(parts)
    table["tokens_per_second"] = float("nan") if speed is None else _speed(speed)
    table = table.reset_index()
    dense = table[table["selector"] == "dense"].set_index("mode")["tokens_per_second"]
    table["speed_ratio"] = table["tokens_per_second"] / table["mode"].map(dense)
    table["_mode"] = table["mode"].map(list(SHOWN).index)
    ordered = table.sort_values(["_mode", "budget", "layer"], kind="stable")
    return ordered.drop(columns="_mode").reset_index(drop=True)


def _speed(speed: pd.DataFrame) -> pd.Series:
    """Tokens over seconds by KEYS; what ran side by side shared its seconds."""
    shared = speed.assign(shared=speed["seconds"] / speed["batch"]).groupby(KEYS, sort=False)
    return (shared["tokens"].sum() / shared["shared"].sum()).rename("tokens_per_second")
