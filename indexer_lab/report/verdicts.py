"""What the runs found, in sentences with their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from indexer_lab.quality.trial import ALL_LAYERS, DENSE
from indexer_lab.report.content import Verdict, percent, plural, table
from indexer_lab.report.gallery import listed
from indexer_lab.report.runs import Run
from indexer_lab.report.words import spoken
from indexer_lab.summary import summarise
from indexer_lab.waterfall import INDEXERS

BASELINES = ("exact", "random", "sink_recent")
OUTCOME = {"replay": "agreement", "decode": "score", "prefill+decode": "score"}
BEYOND = "–: not known, or an end of the interval beyond what was measured."
SAYS = {"agreement": "chooses the dense model's token in", "score": "answers right in"}


def verdicts(run: Run) -> list[Verdict]:
    """The findings of one folder; those of the study first as they were judged there."""
    source = run.path.name or str(run.path)
    found = [_of_study(record, source) for record in run.verdicts]
    if "scores" in run.frames:
        found += [Verdict("measured", text, source=source) for text in _fidelity(run)]
    if "quality" in run.frames:
        found += [Verdict("measured", text, source=source) for text in _quality(run)]
    if "relations" in run.frames and {"prompts", "pairs", "quality"} <= set(_notes(run)):
        text = spoken(run.frames["relations"], run.manifest["notes"])
        found.append(Verdict("measured", text[0].upper() + text[1:] + ".", source=source))
    return found


def _notes(run: Run) -> dict[str, Any]:
    return run.manifest.get("notes") or {}


def _of_study(record: dict[str, Any], source: str) -> Verdict:
    numbers = [row for row in listed(record, "numbers") if isinstance(row, dict)]
    columns = ("number", "estimate", "95 % from", "to", "unit", "prompts", "why not")
    rows = [
        [row.get(name) for name in ("name", "estimate", "low", "high", "unit", "n", "reason")]
        for row in numbers
    ]
    return Verdict(
        state=str(record["finding"]),
        sentence=str(record["sentence"]),
        claim=str(record.get("claim") or ""),
        numbers=table("The numbers behind it", columns, rows, BEYOND) if rows else None,
        caveats=tuple(str(line) for line in listed(record, "caveats")),
        source=str(record.get("script") or source),
    )


def shown_budget(frame: pd.DataFrame) -> int | None:
    """The largest budget with rows that count, as figures choose it; None when all are trivial."""
    counted = frame[~frame["trivial"]]
    return int(counted["budget"].max()) if len(counted) else None


def _fidelity(run: Run) -> Iterator[str]:
    """One sentence a target: the indexer, or else the best selector, between ceiling and chance."""
    frame = run.frames["scores"]
    budget = shown_budget(frame)
    if budget is None:
        yield "Nothing can be said: every row sees no more keys than its budget; all are trivial."
        return
    summary = summarise(frame[frame["budget"] == budget], ["recall", "mass"])
    for target, part in summary.groupby("target", observed=True):
        rows = part.assign(selector=part["selector"].astype(str)).set_index("selector")
        name = _leading(rows)
        if name is None:
            continue
        yield _sentence(str(target), budget, name, rows)


def _leading(rows: pd.DataFrame) -> str | None:
    """The selector that a sentence is about: an indexer if there is one, else the best recall."""
    indexers = [name for name in rows.index if name.split(":", 1)[0] in INDEXERS]
    if indexers:
        return str(min(indexers, key=len))
    others = rows[[name.split(":", 1)[0] not in BASELINES for name in rows.index]]
    means = others["recall_mean"].dropna()
    return str(means.idxmax()) if len(means) else None


def _sentence(target: str, budget: int, name: str, rows: pd.DataFrame) -> str:
    own = rows.loc[name]
    text = (
        f"With {plural(budget, 'key')} per query, {name} finds {percent(own['recall_mean'])} of "
        f"the exact keys of target {target} (median {percent(own['recall_median'])}; one row in "
        f"a hundred under {percent(own['recall_p1'])}) and keeps {percent(own['mass_mean'])} of "
        f"the attention mass (one row in a hundred under {percent(own['mass_p1'])}), over "
        f"{plural(int(own['rows']), 'query row')}."
    )
    beside = [
        f"{what} {percent(rows['recall_mean'][other])} and {percent(rows['mass_mean'][other])}"
        for other, what in (
            ("exact", "exact top-k"),
            ("exact:best_shared", "the best set that all heads share"),
            ("sink_recent", "first and latest keys"),
            ("random", "chance"),
        )
        if other in rows.index
    ]
    return f"{text} Recall and mass beside it: {'; '.join(beside)}." if beside else text


def _quality(run: Run) -> Iterator[str]:
    """One sentence a mode, at the smallest budget, where selectors differ most."""
    frame = run.frames["quality"]
    whole = frame[frame["layer"] == ALL_LAYERS]
    for mode, part in whole.groupby("mode", sort=False):
        outcome = OUTCOME.get(str(mode))
        ran = part[part["selector"] != DENSE]
        if outcome is None or ran[outcome].isna().all():
            continue
        budget = int(ran["budget"].min())
        means = ran[ran["budget"] == budget].groupby("selector", sort=False)[outcome].mean()
        dense = part[part["selector"] == DENSE][outcome].mean()
        each = "; ".join(f"{name} {percent(mean)}" for name, mean in means.items())
        prompts = plural(int(ran["sample"].nunique()), "prompt")
        ceiling = (
            f" (dense {percent(dense)})" if outcome == "score" and not math.isnan(dense) else ""
        )
        yield (
            f"Run on {plural(budget, 'key')} per query ({mode}, {prompts}), the model "
            f"{SAYS[outcome]} this share of cases{ceiling}: {each}."
        )
