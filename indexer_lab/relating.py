"""Fidelity and quality of the same sample, selector and budget, and what the one says of the other.

Every pair of a relation is one sample under one selector and budget; every interval resamples
samples. Nothing is said where the pairs do not carry it: the reason stands in place of a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from indexer_lab.errors import InputError
from indexer_lab.quality.trial import ALL_LAYERS, DENSE
from indexer_lab.statistics.bootstrap import Interval
from indexer_lab.statistics.correlation import Method, correlate
from indexer_lab.statistics.holm import holm
from indexer_lab.statistics.prediction import compare_predictors
from indexer_lab.statistics.threshold import threshold

KEYS = ["sample", "selector", "budget"]
FIDELITY = ["recall", "mass", "output_error"]
HELD = ["length", "entropy"]
OUTCOME = {"replay": "agreement", "decode": "score", "prefill+decode": "score"}
"""What quality means in each mode: higher is better, and dense gives the most one can ask for."""
NEEDED = [*KEYS, "target", "layer", "trivial", *FIDELITY, "entropy"]
"""The columns of a score table that a relation reads."""


@dataclass(frozen=True)
class Joined:
    """The pairs of one mode and target.

    pairs:   KEYS, `length`, FIDELITY, `entropy`, `quality`, `dense` (the same sample's dense
             quality).
    swapped: KEYS, `layer`, FIDELITY, `swap_kl`, `swap_delta_nll`, `swap_score`: one layer's
             fidelity beside the KL and NLL that selecting in it alone costs, and the change of the
             task's score where answers were generated (nan elsewhere); empty without swaps.
    notes:   prompts, pairs, trivial rows and what found no partner.
    """

    pairs: pd.DataFrame
    swapped: pd.DataFrame
    notes: dict[str, Any]


def join(scores: pd.DataFrame, quality: pd.DataFrame, target: str, mode: str) -> Joined:
    """Pairs each sample's fidelity, averaged over its non-trivial rows, with its quality.

    scores:  NEEDED columns of a score table; quality: a quality table.
    `exact` is left out unless the target is per_head: a score table's is exact for the target it is
    held against, the model ran with the exact of each head.
    Raises InputError for a target or mode that is not in the tables, or when no pair is left.
    """
    _expect("target", target, scores["target"])
    _expect("mode", mode, quality["mode"])
    held = scores[scores["target"] == target].astype({"sample": str, "selector": str})
    whole = held if target == "per_head" else held[held["selector"] != "exact"]
    kept = whole[~whole["trivial"]]
    ran = quality[quality["mode"] == mode]
    outcome = OUTCOME[mode]
    dense = ran[ran["selector"] == DENSE].set_index("sample")[outcome]
    every = ran[(ran["layer"] == ALL_LAYERS) & (ran["selector"] != DENSE)]
    every = every[[*KEYS, "length", outcome]].rename(columns={outcome: "quality"})
    every["dense"] = every["sample"].map(dense)
    unanswered = int(every["quality"].isna().sum())
    every = every[every["quality"].notna()]
    fidelity = kept.groupby(KEYS, sort=True)[[*FIDELITY, "entropy"]].mean().reset_index()
    pairs = every.merge(fidelity, on=KEYS, how="inner").sort_values(KEYS, ignore_index=True)
    if pairs.empty:
        raise InputError(
            "no sample, selector and budget is in both tables: score and run the same prompts "
            "with the same --selector and --budget"
        )
    notes = {
        "target": target,
        "mode": mode,
        "quality": outcome,
        "prompts": int(pairs["sample"].nunique()),
        "pairs": len(pairs),
        "score rows": len(whole),
        "trivial rows left out": int(whole["trivial"].sum()),
        "quality rows without scores": len(every) - len(pairs),
        "rows without an answer": unanswered,
        "scores without quality rows": len(fidelity) - len(pairs),
    }
    return Joined(pairs, _swapped(kept, swap_effects(quality)), notes)


def swap_effects(quality: pd.DataFrame) -> pd.DataFrame:
    """What selecting in one layer alone does to each sample, whichever modes measured it.

    returns: KEYS, `layer`, `swap_kl` and `swap_delta_nll` (from replay), `swap_score` (the score
    less the dense one, from decode); nan where a mode did not run.
    """
    key = [*KEYS, "layer"]
    swaps = quality[quality["layer"] != ALL_LAYERS]
    forced = swaps[swaps["mode"] == "replay"].set_index(key)[["kl", "delta_nll"]]
    answers = quality[quality["mode"] == "decode"]
    dense = answers[answers["selector"] == DENSE].set_index("sample")["score"]
    scored = swaps[swaps["mode"] == "decode"]
    before = scored["sample"].map(dense).astype(float)
    change = scored.assign(swap_score=scored["score"].astype(float) - before)
    names = {"kl": "swap_kl", "delta_nll": "swap_delta_nll"}
    both = forced.rename(columns=names).join(change.set_index(key)["swap_score"], how="outer")
    return both.reset_index()


def _swapped(scores: pd.DataFrame, swaps: pd.DataFrame) -> pd.DataFrame:
    by_layer = scores.groupby([*KEYS, "layer"], sort=True)[FIDELITY].mean().reset_index()
    both = swaps.merge(by_layer, on=[*KEYS, "layer"])
    return both.sort_values([*KEYS, "layer"], ignore_index=True)


def _expect(what: str, value: str, column: pd.Series) -> None:
    known = sorted(set(column.astype(str)))
    if value not in known:
        raise InputError(f"no rows with {what} {value!r}; the table holds {', '.join(known)}")


def relations(joined: Joined, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Every correlation, one a row, Holm-adjusted over all of them.

    returns: `question`, `x`, `y`, `method`, `held`, `pairs`, the fields of `Interval`, `p_holm`.
    Questions: `quality` (fidelity against quality, plain and with length and entropy held),
    `entropy` (a sample's entropy against the share of dense quality that it loses, by budget),
    `swap` (a layer's fidelity against the KL of selecting in it alone).
    """
    rows = [*_of_quality(joined.pairs, draws, seed), *_of_entropy(joined.pairs, draws, seed)]
    rows += _of_swaps(joined.swapped, draws, seed)
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"])
    return table


def _of_quality(pairs: pd.DataFrame, draws: int, seed: int) -> Iterator[dict[str, Any]]:
    methods: tuple[Method, ...] = ("spearman", "pearson")
    for name in FIDELITY:
        for method in methods:
            for held in ([], HELD):
                yield _row("quality", pairs, name, "quality", method, held, draws, seed)


def _of_entropy(pairs: pd.DataFrame, draws: int, seed: int) -> Iterator[dict[str, Any]]:
    lost = pairs.assign(lost=pairs["dense"] - pairs["quality"])
    for budget, part in lost.groupby("budget"):
        question = f"entropy, budget {budget}"
        yield _row(question, part, "entropy", "lost", "spearman", ["length"], draws, seed)


def _of_swaps(swapped: pd.DataFrame, draws: int, seed: int) -> Iterator[dict[str, Any]]:
    if len(swapped):
        for name in FIDELITY:
            yield _row("swap", swapped, name, "swap_kl", "spearman", [], draws, seed)


def _row(
    question: str, table: pd.DataFrame, x: str, y: str, method: Method, held: list[str],
    draws: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    fixed = table[held] if held else None
    found = correlate(table[x], table[y], table["sample"], method, fixed, draws, seed)
    used = int(table[[x, y, *held]].notna().all(axis=1).sum())
    names = {"question": question, "x": x, "y": y, "method": method, "held": ", ".join(held)}
    return {**names, "pairs": used, **asdict(found)}


def predictors(joined: Joined, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Which of recall, mass and output error predicts quality best, on prompts it has not seen.

    returns: best first: `name`, `r2`, `r2_low`, `r2_high`, `behind`, `behind_low`, `behind_high`,
    `p_holm`, `reason`. A column without any finite value (output error without stored values) is
    left out; one row with a reason where there are too few prompts for the folds.
    """
    pairs = joined.pairs
    columns = {name: pairs[name] for name in FIDELITY if pairs[name].notna().any()}
    names = ["name", "r2", "r2_low", "r2_high", "behind", "behind_low", "behind_high", "p_holm",
             "reason"]  # fmt: skip
    folds = min(5, pairs["sample"].nunique())
    if folds < 2 or pairs["quality"].notna().sum() == 0:
        row = {name: float("nan") for name in names}
        reason = "a cross-validated fit needs the quality of 2 prompts or more"
        return pd.DataFrame([{**row, "name": "", "reason": reason}])
    ranked = compare_predictors(columns, pairs["quality"], pairs["sample"], folds, draws, seed)
    rows = [
        (each.name, each.r2.estimate, each.r2.low, each.r2.high, each.behind.estimate,
         each.behind.low, each.behind.high, each.behind.p, each.r2.reason)
        for each in ranked
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def thresholds(
    joined: Joined, share: float = 0.95, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """The recall and the mass below which quality falls under `share` of dense, by budget.

    returns: `x`, `budget` (0: all together), `share`, the fields of `Interval`.
    """
    rows = []
    for budget, part in [(0, joined.pairs), *joined.pairs.groupby("budget")]:
        for name in ("recall", "mass"):
            found: Interval = threshold(
                part[name], part["quality"], part["dense"], part["sample"], share, draws, seed
            )
            rows.append({"x": name, "budget": int(budget), "share": share, **asdict(found)})
    return pd.DataFrame(rows).drop(columns="p")
