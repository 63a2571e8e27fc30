"""Indexer bugs that really shipped: which measure sees each one, and which a task score misses.

    python analyses/known_bugs.py           a few minutes on two CPU cores
    python analyses/known_bugs.py --full    the large version, for a GPU

Each bug of the `faulty` selector is injected into the captured operands of the model's own indexer
and beside them into the running model. Per prompt, a bug's loss is the difference to the sound
indexer (`lightning`) at the same budget: recall, mass and output error on the captured queries, KL
to the dense model in a replay, right answers in decoding. A measure sees a bug where the 95 %
interval of the mean loss over prompts lies above 0; it sees it the earlier, the fewer prompts that
takes. While a model decodes no later key exists, so that `faulty:future` costs no answer.
"""

from __future__ import annotations

import math

import pandas as pd

from indexer_lab.cli.quality_step import quality_step
from indexer_lab.cli.scoring_step import score_step
from indexer_lab.cli.steps import capture_step
from indexer_lab.errors import InputError
from study import Answer, Asked, Finding, Number, Script, Size, Verdict, draw_table, run, say
from study.models import has_indexer
from study.paired import by_prompt, interval, losses, prompts_needed

BUGS = ("rope", "relu", "weights", "zero", "layer", "scale", "overflow", "future", "self")
SOUND = "lightning"
FIDELITY = ("recall", "mass", "output_error")
UNITS = {"kl": "nats per token", "score": "share of answers"}
TARGET = "head_sum"
TASKS = ("multi_key", "variable_tracking", "multi_query")

SCRIPT = Script(
    "known_bugs",
    "A task score alone misses indexer bugs that recall, mass or output error see on the same "
    "prompts.",
    "needle-dsa",
    Size(TASKS, 1024, 5),
    Size((*TASKS, "multi_value", "key_value"), 8160, 20),
    extra={
        "budget": {"type": int, "default": 32, "help": "keys a query may read (32)"},
        "positions": {"default": "last:32", "help": "captured queries (last:32)"},
    },
)


def study(asked: Asked) -> Answer:
    """Captures, scores and runs the bugs, and says who saw them."""
    if not has_indexer(asked.model):
        raise InputError(f"model {asked.model!r} has no native indexer that a bug could sit in")
    spelled = (SOUND, *(f"faulty:{bug}" for bug in BUGS))
    budget = int(asked.more["budget"])
    say("capture and score")
    capture = capture_step(
        **asked.reading(), output=asked.work / "capture", positions=asked.more["positions"],
        values=True, witnesses=0,
    )  # fmt: skip
    scores = score_step(
        capture=capture.path, output=asked.work / "scores", selectors=spelled,
        budgets=str(budget), targets=(TARGET,), device=asked.device, **asked.again(),
    )  # fmt: skip
    say("the same bugs in the running model")
    quality = quality_step(
        **asked.reading(), output=asked.work / "quality", selectors=spelled, budgets=str(budget),
        modes=("replay", "decode"), tokens=24, entropy="none", batch=8,
    )  # fmt: skip
    rows = scores.frame()
    table = signatures(rows[~rows["trivial"]], quality.frame(), asked.seed)
    tasks = ", ".join(sorted(set(rows["task"])))
    table = table.assign(budget=budget, task=tasks)
    inputs = {"scores": scores.manifest, "quality": quality.manifest}
    figure = draw_table(asked, "loss_by_measure", table, inputs, stem="known_bugs_losses")
    return Answer(verdict(table), {"signatures": table}, (figure,))


def signatures(scores: pd.DataFrame, quality: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A row for each bug and measure: selector, reference, measure, unit, loss, low, high, prompts,
    needed (prompts that seeing it takes), seen, and first: whether no measure needs fewer.

    scores: rows that are not trivial; quality: of the modes replay (kl) and decode (score).
    """
    whole = quality[quality["layer"] == -1]
    sources = {
        **dict.fromkeys(FIDELITY, by_prompt(scores, list(FIDELITY))),
        "kl": by_prompt(whole[whole["mode"] == "replay"], ["kl"]),
        "score": by_prompt(whole[whole["mode"] == "decode"], ["score"]),
    }
    bugs = sorted(name for name in set(scores["selector"]) if name.startswith("faulty"))
    rows = []
    for bug in bugs:
        for measure, prompts in sources.items():
            found = losses(prompts, measure, bug, SOUND)
            lies = interval(found, measure, seed)
            rows.append({
                "selector": bug, "reference": SOUND, "measure": measure,
                "unit": UNITS.get(measure, "share"), "loss": lies.estimate, "low": lies.low,
                "high": lies.high, "prompts": lies.clusters,
                "needed": prompts_needed(found, measure), "seen": lies.low > 0,
            })  # fmt: skip
    table = pd.DataFrame(rows)
    seen_only = table["needed"].where(table["seen"])
    least = seen_only.groupby(table["selector"]).transform("min")
    return table.assign(first=table["seen"] & (table["needed"] == least))


def verdict(table: pd.DataFrame) -> Verdict:
    """Who saw which bug, and what the score alone would have missed."""
    seen = {
        measure: set(rows.loc[rows["seen"], "selector"])
        for measure, rows in table.groupby("measure")
    }
    by_fidelity = set().union(*(seen.get(measure, set()) for measure in FIDELITY))
    missed = sorted(by_fidelity - seen.get("score", set()))
    bugs = sorted(set(table["selector"]))
    return Verdict(
        finding(table, missed),
        _sentence(table, bugs, by_fidelity, missed, seen),
        tuple(_numbers(table, missed)),
        _caveats(table, bugs, by_fidelity),
    )


def finding(table: pd.DataFrame, missed: list[str]) -> Finding:
    """Supported where the score missed one; undecided where it has no interval to see with."""
    judged = table.loc[table["measure"] == "score", ["low", "high"]].notna().all(axis=1)
    if not len(judged) or not judged.all():
        return Finding.UNDECIDED
    return Finding.SUPPORTED if missed else Finding.NOT_SUPPORTED


def _sentence(
    table: pd.DataFrame,
    bugs: list[str],
    by_fidelity: set[str],
    missed: list[str],
    seen: dict[str, set[str]],
) -> str:
    score, prompts = seen.get("score", set()), int(table["prompts"].max())
    words = (
        f"Of {len(bugs)} bugs on {prompts} prompts, recall, mass or output error see "
        f"{len(by_fidelity)}, KL {len(seen.get('kl', set()))}, the score {len(score)}"
    )
    words += f"; the score alone misses {_listed(missed)}." if missed else "; it misses none."
    return f"{words} First to see: {_firsts(table)}."


def _firsts(table: pd.DataFrame) -> str:
    """`recall rope, layer; mass self`: each bug with the measure that needs fewest prompts."""
    taken: dict[str, list[str]] = {}
    for bug, rows in table[table["first"]].groupby("selector", sort=True):
        taken.setdefault(str(rows["measure"].iloc[0]), []).append(_short(str(bug)))
    return "; ".join(f"{measure} {_comma(bugs)}" for measure, bugs in taken.items()) or "nobody"


def _numbers(table: pd.DataFrame, missed: list[str]) -> list[Number]:
    """The recall that each bug costs, and the score that the missed ones do."""
    rows = pd.concat(
        [
            table[table["measure"] == "recall"],
            table[(table["measure"] == "score") & table["selector"].isin(missed)],
        ]
    )
    return [
        Number(
            f"{row.measure} lost to {_short(row.selector)}", row.loss, row.low, row.high,
            int(row.prompts), row.unit, "" if math.isfinite(row.low) else "too few prompts",
        )
        for row in rows.itertuples()
    ]  # fmt: skip


def _caveats(table: pd.DataFrame, bugs: list[str], by_fidelity: set[str]) -> tuple[str, ...]:
    unseen = sorted(set(bugs) - set(table.loc[table["seen"], "selector"]))
    words = [
        "Missed means: not told from chance on these prompts. A score of many more prompts would "
        "see some of them.",
        "These tasks need few keys; a bug that spares the needle costs no answer here.",
    ]
    if unseen:
        words.append(f"Nobody sees {_listed(unseen)} here: it changes too little in this model.")
    return tuple(words)


def _short(selector: str) -> str:
    return selector.removeprefix("faulty:").removeprefix("bug=")


def _listed(selectors: list[str]) -> str:
    return _comma([_short(each) for each in selectors])


def _comma(words: list[str]) -> str:
    return ", ".join(words)


if __name__ == "__main__":
    run(SCRIPT, study, __doc__)
