"""Exact top-k decoding against full attention, by the share of keys that a query may read.

    python analyses/topk_decoding.py                          about four minutes on two CPU cores
    python analyses/topk_decoding.py --full --device cuda     8,192 tokens, a hundred prompts a task
    python analyses/topk_decoding.py --model hub-id --prompts prompts.jsonl --length 32768

The study's protocol: the prompt is read with full attention, each decode query reads its k most
similar keys in each head. Every task is held against full attention on the same prompts; source
text has no answer and is held by its bits per byte. One key a head lies below the study's range and
shows whether a task can tell ratios apart at all.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from indexer_figures import Choice
from indexer_lab.tasks import TASKS
from study import (
    Answer,
    Asked,
    Finding,
    Number,
    Script,
    Size,
    Verdict,
    all_of,
    at_most,
    draw_table,
    run,
)
from study.quality import (
    ANSWERS,
    TEXT,
    budgets,
    kinds,
    mean_loss,
    paired,
    percent,
    run_sparse,
    sparse_rows,
)

EVERY_TASK = (*TASKS, TEXT)
SCRIPT = Script(
    "topk_decoding",
    "Decoding on each query's exact top-k keys is as good as full attention, even at a small "
    "ratio of k to the keys.",
    "needle-dense",
    Size(EVERY_TASK, 2032, 8),
    Size(EVERY_TASK, 8160, 100),
)
ONE_KEY, ALL = 0.0, 1.0  # all keys are full attention: a check, not a finding
RATIOS = (ONE_KEY, 0.005, 0.01, 0.02, 0.05, 0.2, ALL)
SMALL = 0.01
MARGIN = 0.05  # a loss of so many answers, or so many bits per byte more, still counts as good
LOST = {ANSWERS: "right answers lost", "text": "bits per byte more"}
FLOOR_RATIOS = (0.01, 0.2)
FLOOR_SAMPLES = 3  # how bad random and sink+recent are shows on few prompts


def study(asked: Asked) -> Answer:
    keys = budgets(asked, RATIOS)
    few = replace(asked, samples=min(asked.samples, FLOOR_SAMPLES))
    exact = run_sparse(asked, "exact", keys)
    shown = {ratio: keys[ratio] for ratio in FLOOR_RATIOS}
    floors = run_sparse(few, "floors", shown, selectors=("random", "sink_recent"))
    frame = pd.concat([exact.frame(), sparse_rows(floors.frame())], ignore_index=True)
    drawn = draw_table(
        asked, "quality_by_budget_ratio", frame, {"exact": exact.manifest,
        "floors": floors.manifest}, stem="topk_decoding_quality", choice=Choice(mode="decode"),
    )  # fmt: skip
    rows = paired(exact.frame())
    table = pd.concat([by_ratio(rows), by_ratio(paired(floors.frame()))], ignore_index=True)
    return Answer(judge(rows, keys, asked.seed), {"by_ratio": table}, (drawn,))


def judge(exact: pd.DataFrame, keys: dict[float, int], seed: int = 0) -> Verdict:
    """The verdict on rows of `paired` of exact top-k; keys: ratio -> budget."""
    parts = kinds(exact)
    found = {
        (name, ratio): Number.of(
            f"{LOST[name]} at {named(ratio, budget)}",
            mean_loss(rows[rows["budget"] == budget], seed),
            "share",
        )
        for name, rows in parts.items()
        for ratio, budget in sorted(keys.items())
        if ratio != ALL
    }
    small = {name: found[name, SMALL] for name in parts}
    lost = ", ".join(f"{LOST[name]}: {number}" for name, number in small.items())
    enough = " ".join(_enough(name, found, keys) for name in parts)
    sentence = (
        f"At {named(SMALL, keys[SMALL])}, against full attention, {lost}; {MARGIN} or less counts "
        f"as good. {enough}"
    )
    finding = all_of(*(at_most(number, MARGIN) for number in small.values()))
    return Verdict(finding, sentence, tuple(found.values()), _caveats(found))


def named(ratio: float, budget: int) -> str:
    """The budget as a sentence has it."""
    return "one key a head" if ratio == ONE_KEY else f"{percent(ratio)} of the keys ({budget})"


def _enough(name: str, found: dict[tuple[str, float], Number], keys: dict[float, int]) -> str:
    """From which ratio on all is good, in words."""
    enough: float | None = None
    for ratio in sorted(set(keys) - {ALL}, reverse=True):
        if at_most(found[name, ratio], MARGIN) is not Finding.SUPPORTED:
            break
        enough = ratio
    if enough is None:
        return f"By {LOST[name]}, no ratio under all keys is shown to be good."
    return f"By {LOST[name]}, all is shown to be good from {named(enough, keys[enough])} on."


def _caveats(found: dict[tuple[str, float], Number]) -> tuple[str, ...]:
    fewest = found.get((ANSWERS, ONE_KEY))
    if fewest is None or at_most(fewest, 2 * MARGIN) is not Finding.SUPPORTED:
        return ()
    return (
        f"On one key a head no more than {fewest} of right answers are lost: once the prompt was "
        "read with full attention, these tasks cannot tell a sufficient ratio from one far too "
        "small.",
    )


def by_ratio(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each task, selector and budget: mean quality, full attention's, the loss."""
    found = []
    for (task, selector, budget), part in rows.groupby(["task", "selector", "budget"]):
        loss = mean_loss(part)
        found.append(
            {
                "task": task,
                "selector": selector,
                "budget": budget,
                "ratio": part["ratio"].mean(),
                "samples": part["sample"].nunique(),
                "measure": "bits per byte" if part["text"].any() else "right answers",
                "quality": part["quality"].mean(),
                "full": part["full"].mean(),
                "loss": loss.estimate,
                "low": loss.low,
                "high": loss.high,
            }
        )
    return pd.DataFrame(found)


if __name__ == "__main__":
    run(SCRIPT, study, __doc__)
