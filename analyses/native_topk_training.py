"""Does training with top-k attention help decoding with it? Two fine-tuned models, side by side.

    python analyses/native_topk_training.py                        about four minutes on two cores
    python analyses/native_topk_training.py --full --device cuda   8,192 tokens, a hundred prompts
    python analyses/native_topk_training.py --model tuned-with-topk --against tuned-without \\
        --prompts prompts.jsonl

`--model` was tuned with top-k attention, `--against` from the same start on the same batches with
full attention. Both read the same prompts, so that every difference is taken prompt by prompt:
under full attention, and under exact top-k at each ratio. The prompt is read with full attention;
on text also with top-k, as in training (mode prefill+decode).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from indexer_lab.statistics.mean import mean
from study import Answer, Asked, Finding, Number, Script, Size, Verdict, draw_table, run
from study.quality import TEXT, budgets, paired, percent, run_sparse

TASKS = ("multi_key", "multi_value", "variable_tracking", TEXT)
SCRIPT = Script(
    "native_topk_training",
    "Training with the top-k attention that decoding uses makes top-k decoding better.",
    "needle-topk-sft",
    Size(TASKS, 2032, 8),
    Size(TASKS, 8160, 100),
    extra={"against": {"default": "needle-dense-sft", "help": "tuned with full attention"}},
)
ONE_KEY, TRAINED, ALL = 0.0, 0.01, 1.0
RATIOS = (ONE_KEY, 0.005, TRAINED, 0.02, 0.05, ALL)
NEGLIGIBLE = 0.01  # a gain whose whole interval is under this is none
ANSWERS, BITS = "right answers gained", "bits per byte saved"
PAIR = ["sample", "mode", "budget"]


def study(asked: Asked) -> Answer:
    keys = budgets(asked, RATIOS)
    inputs: dict[str, Any] = {}
    frames = []
    for role, model in (("topk", asked.model), ("full", str(asked.more["against"]))):
        one = replace(asked, model=model)
        runs = {"decode": run_sparse(one, f"{role}-decode", keys)}
        if asked.prompts or TEXT in asked.tasks:
            text = one if asked.prompts else replace(one, tasks=(TEXT,))
            trained = {TRAINED: keys[TRAINED]}
            runs["prefill+decode"] = run_sparse(
                text, f"{role}-prefill", trained, mode="prefill+decode"
            )
        for mode, quality in runs.items():
            inputs[f"{role} {mode}"] = quality.manifest
            frames.append(paired(quality.frame(), mode).assign(mode=mode, role=role))
    gained = gains(pd.concat(frames, ignore_index=True), keys)
    drawn = draw_table(asked, "gain_by_ratio", points(gained), inputs)
    return Answer(judge(gained, asked.seed), {"by_ratio": by_ratio(gained)}, (drawn,))


def gains(rows: pd.DataFrame, keys: dict[float, int]) -> pd.DataFrame:
    """What the model tuned with top-k has more than the other, prompt by prompt.

    rows:    of `paired`, with `mode` and `role` (topk, full); keys: ratio -> budget.
    returns: PAIR, task, text, `ratio` (as asked for), `share` (budget over tokens), `gain`: right
             answers more, or the share of bits per byte saved; `narrowed`: the gain less the one
             under full attention.
    """
    topk, full = (rows[rows["role"] == role] for role in ("topk", "full"))
    other = full[[*PAIR, "quality", "full"]]
    both = topk.merge(other, on=PAIR, suffixes=("", "_other"), validate="one_to_one")
    more = _more(both["quality"], both["quality_other"], both["text"])
    at_full = _more(both["full"], both["full_other"], both["text"])
    asked = {budget: ratio for ratio, budget in keys.items()}
    both = both.assign(gain=more, narrowed=more - at_full, share=both["ratio"])
    both["ratio"] = both["budget"].map(asked)
    return both[[*PAIR, "task", "text", "ratio", "share", "gain", "narrowed"]]


def _more(own: pd.Series, other: pd.Series, text: pd.Series) -> pd.Series:
    return (own - other).where(~text, (other - own) / other)


def judge(gained: pd.DataFrame, seed: int = 0) -> Verdict:
    """The verdict on rows of `gains`; the ratio that the model was tuned at decides."""
    by = {
        _what(text, mode): part for (text, mode), part in gained.groupby(["text", "mode"])
    }  # fmt: skip
    at = {
        (what, float(ratio)): _number(f"{what} at {_named(float(ratio))}", rows, "gain", seed)
        for what, part in by.items()
        for ratio, rows in part.groupby("ratio")
    }
    trained = {what: at[what, TRAINED] for what in by}
    beyond = {
        what: _number(f"{what} at {_named(TRAINED)}, less that with full attention",
                      part[part["ratio"] == TRAINED], "narrowed", seed)
        for what, part in by.items()
    }  # fmt: skip
    sentence = (
        f"At {_named(TRAINED)}, the ratio of the training, {_told(trained)}. A gain under "
        f"{percent(NEGLIGIBLE)} counts as none."
    )
    caveats = (
        f"Less what the two differ by under full attention, {_told(beyond)}.",
        "One pair of models, one base, one ratio: a difference between them is one example.",
    )
    numbers = (*at.values(), *beyond.values())
    return Verdict(_finding(list(trained.values())), sentence, numbers, caveats)


def _what(text: bool, mode: str) -> str:
    return (BITS if text else ANSWERS) + ("" if mode == "decode" else " (prompt on top-k too)")


def _named(ratio: float) -> str:
    return "one key a head" if ratio == ONE_KEY else f"{percent(ratio)} of the keys"


def _told(numbers: dict[str, Number]) -> str:
    return "; ".join(f"{what}: {number}" for what, number in numbers.items())


def _finding(gained: list[Number]) -> Finding:
    """Supported by a gain above 0 that is not negligible, when none is below 0; not supported by a
    loss, or where no interval leaves room for more than a negligible gain."""
    known = [number for number in gained if number.decided]
    if any(number.high < 0 for number in known):
        return Finding.NOT_SUPPORTED
    if any(number.low > 0 and number.high >= NEGLIGIBLE for number in known):
        return Finding.SUPPORTED
    if known and len(known) == len(gained) and all(n.high < NEGLIGIBLE for n in known):
        return Finding.NOT_SUPPORTED
    return Finding.UNDECIDED


def _number(name: str, rows: pd.DataFrame, column: str, seed: int) -> Number:
    reach = max(2.0 if column == "narrowed" else 1.0, rows[column].abs().max())
    return Number.of(name, mean(rows[column], rows["sample"], -reach, reach, seed=seed))


def points(gained: pd.DataFrame) -> pd.DataFrame:
    """What the figure plots: a panel for answers and one for text, a line for each mode."""
    words = {"decode": "prompt full, decode top-k", "prefill+decode": "all top-k"}
    panel = gained["text"].map({True: BITS + " (share)", False: ANSWERS + " (share)"})
    mean_share = gained.groupby("budget")["share"].transform("mean")
    return gained.assign(panel=panel, selector=gained["mode"].map(words), x=mean_share,
                         value=gained["gain"])  # fmt: skip


def by_ratio(gained: pd.DataFrame) -> pd.DataFrame:
    """A row for each task, mode and ratio: the mean gain and its interval."""
    rows = []
    for (task, mode, ratio), part in gained.groupby(["task", "mode", "ratio"]):
        number = _number("", part, "gain", 0)
        beyond = _number("", part, "narrowed", 0)
        rows.append({"task": task, "mode": mode, "ratio": ratio, "budget": part["budget"].iloc[0],
                     "samples": number.n, "gain": number.estimate, "low": number.low,
                     "high": number.high, "beyond_full": beyond.estimate,
                     "beyond_low": beyond.low, "beyond_high": beyond.high})  # fmt: skip
    return pd.DataFrame(rows)


if __name__ == "__main__":
    run(SCRIPT, study, __doc__)
