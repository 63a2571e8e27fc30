"""The tables of a report, out of the runs' own."""

from __future__ import annotations

from typing import Any

import pandas as pd

from indexer_lab.quality.summary import SHOWN
from indexer_lab.quality.summary import summarise as summarise_quality
from indexer_lab.report.content import Table, framed, share, table
from indexer_lab.report.runs import Run
from indexer_lab.report.verdicts import shown_budget
from indexer_lab.summary import summarise
from indexer_lab.waterfall import Waterfall


def tables(run: Run) -> list[Table]:
    """The tables of one folder, the most telling first."""
    found: list[Table] = list(run.sheets)
    if "scores" in run.frames:
        found += _of_scores(run.frames["scores"], "Selectors against exact top-k")
    if "units" in run.frames:
        found += _of_scores(run.frames["units"], "The same, counted in units of several tokens")
    if "quality" in run.frames:
        found += _of_quality(run.frames["quality"], run.frames.get("speed"))
    found += [_relation(name, run.frames[name]) for name in CAPTIONS if name in run.frames]
    return found


def _of_scores(frame: pd.DataFrame, caption: str) -> list[Table]:
    measures = [name for name in ("recall", "mass", "output_error") if frame[name].notna().any()]
    stats = ("mean", "median", "p10", "p1", "worst")
    summary = summarise(frame, measures)
    columns = ["target", "budget", "selector", "sets"]
    columns += [f"{measure}_{stat}" for measure in measures for stat in stats]
    note = (
        "sets 1: all heads share the selection. p10 and p1: a tenth and a hundredth of the rows "
        "are worse; of an error, larger."
    )
    found = [framed(caption, summary[columns], note)]
    budget = shown_budget(frame)
    if budget is not None:
        found.append(_by_layer(frame[frame["budget"] == budget], budget, measures))
    return found


def _by_layer(frame: pd.DataFrame, budget: int, measures: list[str]) -> Table:
    counted = frame[~frame["trivial"]]
    groups = counted.groupby(["target", "layer", "selector"], observed=True)
    parts = {"rows": groups.size()}
    for measure in measures:
        high = 0.99 if measure == "output_error" else 0.01
        parts[f"{measure} mean"] = groups[measure].mean()
        parts[f"{measure} p1"] = groups[measure].quantile(high)
    return framed(f"Layer by layer, {budget:,} keys per query", pd.DataFrame(parts).reset_index())


def trivial_shares(run: Run) -> Table | None:
    """How many query rows count at each budget, and how many were left out."""
    if "scores" not in run.frames:
        return None
    frame = run.frames["scores"]
    one = frame[frame["selector"].astype(str) == str(frame["selector"].iloc[0])]
    one = one[one["target"].astype(str) == str(one["target"].iloc[0])]
    groups = one.groupby("budget")["trivial"]
    rows = [
        (int(budget), len(part), int((~part).sum()), share(part.mean())) for budget, part in groups
    ]
    return table(
        f"Rows that count, {run.path.name}",
        ("budget", "query rows", "that count", "trivial, left out"),
        rows,
    )


def _of_quality(frame: pd.DataFrame, speed: pd.DataFrame | None) -> list[Table]:
    summary = summarise_quality(frame, speed)
    found = []
    for mode, part in summary.groupby("mode", sort=False):
        filled = [name for name in SHOWN[str(mode)] if part[f"{name}_mean"].notna().any()]
        columns = ["budget", "layer", "selector", "samples"]
        columns += [f"{name}_{stat}" for name in filled for stat in ("mean", "median", "worst")]
        if part["tokens_per_second"].notna().any():
            columns += ["tokens_per_second", "speed_ratio"]
        named = part[columns].assign(layer=part["layer"].map(lambda n: "all" if n < 0 else n))
        note = "budget 0: the dense model, all keys. nll and kl in nats per token."
        found.append(framed(f"The model run on what is picked: {mode}", named, note))
    return found


CAPTIONS = {
    "relations": "How quality goes with fidelity",
    "predictors": "Which measure predicts quality best, on prompts unseen by the fit",
    "thresholds": "The value under which quality falls below the stated share of dense",
}


def _relation(name: str, frame: pd.DataFrame) -> Table:
    shown = frame.drop(columns=["level"], errors="ignore")
    return framed(CAPTIONS[name], shown, "low and high: ends of the 95 % interval.")


def waterfall_table(falls: list[Waterfall]) -> Table:
    """Every waterfall in numbers: what each step loses, and that they sum to what is missing."""
    names = list(dict.fromkeys(step.name for fall in falls for step in fall.steps))
    rows: list[list[Any]] = []
    for fall in falls:
        lost = {step.name: step.lost for step in fall.steps}
        rows.append(
            [fall.selector, fall.budget, fall.rows, *(lost.get(name) for name in names), fall.kept,
             fall.rest]
        )  # fmt: skip
    return table(
        "The loss waterfall in numbers",
        (
            "selector",
            "budget",
            "rows",
            *(f"lost to {name}" for name in names),
            "kept",
            "unexplained",
        ),
        rows,
        "Shares of the attention mass; a negative loss is a gain. unexplained: 1 less all of it, "
        "which rounding alone may leave.",
    )


def prompts(run: Run) -> Table | None:
    """The prompts of a capture."""
    if not run.samples:
        return None
    rows = [(s.id, s.task or "–", s.length, s.answer or "–") for s in run.samples]
    return table(f"Prompts of {run.path.name}", ("prompt", "task", "tokens", "answer"), rows)
