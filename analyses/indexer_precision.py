"""The Lightning Indexer's recall, mass and output error, by layer, length, depth and task.

    python analyses/indexer_precision.py                       two minutes or so on two CPU cores
    python analyses/indexer_precision.py --full --device cuda  up to 8,176 tokens, more prompts
    python analyses/indexer_precision.py --stages warmup=runs/needle-dsa-5-warmup/model
    python analyses/indexer_precision.py --model org/name --prompts mine.jsonl --budget 2048

Every target is asked, beside the best set that all heads can share (exact:best_shared for recall,
exact:head_sum for mass) and the baselines, at one budget. Built-in prompts come in three lengths: a
quarter, a half and all of --length; intervals resample prompts. Each stage is held against its own
model's attention, on the same prompts. Depth is where the needle lies.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from indexer_figures import Choice
from indexer_lab.cli.scoring_step import score_step
from indexer_lab.cli.steps import capture_step
from indexer_lab.errors import InputError
from indexer_lab.selectors.base import need_indexer
from indexer_lab.statistics.mean import mean
from indexer_lab.statistics.ratio import ratio
from indexer_lab.store.capture import Capture
from indexer_lab.store.files import digest
from indexer_lab.targets import TARGETS
from study import Answer, Asked, Number, Script, Size, Verdict, at_least, run, say
from study.gallery import draw_table

BAR = 0.9  # of the recall that the best shared set reaches
SHIPPED = "as it is"
INDEXER, CEILING, MOST_MASS = "lightning", "exact:best_shared", "exact:head_sum"
SHOWN = (INDEXER, CEILING, "sink_recent", "random")
MEASURES = ["recall", "mass", "output_error"]
KEYS = ["sample", "task", "length", "layer", "selector", "target", "level", "budget", "trivial"]

SCRIPT = Script(
    "indexer_precision",
    "Held against each head's own top-k, the Lightning Indexer finds at least 90 % of what the "
    "best set that all heads share would find.",
    "needle-dsa",
    small=Size(("multi_key", "key_value", "variable_tracking"), 2032, 2),
    full=Size(("multi_key", "key_value", "variable_tracking", "multi_value"), 8176, 8),
    extra={
        "budget": {"type": int, "default": 128, "help": "keys per query (128)"},
        "stages": {"nargs": "+", "default": [], "metavar": "NAME=MODEL",
                   "help": "other checkpoints of the model, as after its warm-up"},
    },
)  # fmt: skip


def study(asked: Asked) -> Answer:
    stages = {SHIPPED: asked.model, **named(asked.more["stages"])}
    frames = {
        stage: _measured(replace(asked, model=model), asked.work / f"stage-{number}")
        for number, (stage, model) in enumerate(stages.items())
    }
    by_target = pd.concat([compare(frame, asked.seed).assign(stage=stage)
                           for stage, frame in frames.items()], ignore_index=True)  # fmt: skip
    figure = draw_table(
        asked, "fidelity_by_condition", pictured(frames), {"models": digest(stages), **stages},
        stem=f"{SCRIPT.name}_by_condition",
        choice=Choice(target="per_head", budget=asked.more["budget"]),
    )  # fmt: skip
    return Answer(judge(frames, asked.seed), {"by_target": by_target}, (figure,))


def named(stages: list[str]) -> dict[str, str]:
    """NAME=MODEL -> name -> model. Raises InputError."""
    found: dict[str, str] = {}
    for text in stages:
        name, equals, model = text.partition("=")
        if not (name and equals and model) or name in {SHIPPED, *found}:
            raise InputError(f"--stages {text!r}: expected NAME=MODEL, each name once")
        found[name] = model
    return found


def _measured(asked: Asked, folder: Path) -> pd.DataFrame:
    """The score rows of one stage at every length, with the needle's depth."""
    lengths = (asked.length // 4, asked.length // 2, asked.length)
    parts = []
    for length in (None,) if asked.prompts else lengths:
        at = replace(asked, length=length or asked.length)
        place = folder / ("prompts" if length is None else str(length))
        say(f"{asked.model}: {'prompts' if length is None else f'{length:,} tokens'}")
        capture = capture_step(
            **at.reading(), output=place / "capture", values=True, witnesses=0,
            positions="last:128" if asked.full else "last:32",
        )  # fmt: skip
        need_indexer(capture.record(capture.samples[0], capture.layers[0]), INDEXER)
        scores = score_step(
            capture=capture.path, output=place / "scores", selectors=(INDEXER, CEILING, MOST_MASS),
            targets=tuple(TARGETS), budgets=str(asked.more["budget"]), device=asked.device,
            **asked.again(),
        )  # fmt: skip
        frame = scores.frame([*KEYS, *MEASURES])
        parts.append(frame.assign(depth=frame["sample"].astype(str).map(_depths(capture))))
    whole = pd.concat(parts, ignore_index=True)
    whole = whole[whole["level"] == "token"]  # units are another question
    return whole.astype({"sample": str, "task": str, "selector": str, "target": str, "level": str})


def _depths(capture: Capture) -> dict[str, float]:
    """Sample -> where its first needle begins, as a share of the prompt."""
    return {
        sample.id: sample.needles[0][0] / sample.length for sample in capture.samples
        if sample.needles
    }  # fmt: skip


def compare(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A row for each target and selector: means over prompts with intervals, trivial rows left out;
    and the selector's recall as a share of what exact:best_shared reaches on that target."""
    rows = []
    for target, own in _each(scores).groupby("target"):
        ceiling = own[own["selector"] == CEILING].set_index("sample")["recall"]
        for selector, each in own.groupby("selector"):
            row: dict[str, object] = {"target": target, "selector": selector}
            for measure in MEASURES:
                values, most = each[measure].clip(lower=0), 1.0
                if measure == "output_error":
                    most = max(most, float(values.max()))  # an error has no bound
                found = mean(values.clip(upper=most), each["sample"], highest=most, seed=seed)
                row |= {measure: found.estimate, f"{measure}_low": found.low,
                        f"{measure}_high": found.high, "prompts": found.clusters}  # fmt: skip
            if selector == "exact":
                row |= {"recall_low": 1.0, "recall_high": 1.0}  # by definition
            share = ratio(each["recall"], ceiling[each["sample"]], each["sample"], seed=seed)
            row |= {"of_ceiling": share.estimate, "of_ceiling_low": share.low,
                    "of_ceiling_high": share.high}  # fmt: skip
            rows.append(row)
    return pd.DataFrame(rows)


def pictured(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What the figure shows: the shipped model's selectors, and every other stage's indexer."""
    first = frames[SHIPPED]
    parts = [first[first["selector"].isin(SHOWN)]]
    for stage, frame in frames.items():
        if stage != SHIPPED:
            own = frame[frame["selector"] == INDEXER]
            parts.append(own.assign(selector=f"{INDEXER}, {stage}"))
    return pd.concat(parts, ignore_index=True)


def judge(frames: dict[str, pd.DataFrame], seed: int = 0) -> Verdict:
    """The claim for the shipped model, and how other stages differ from it."""
    per_head = {stage: _by_prompt(frame, "per_head") for stage, frame in frames.items()}
    own = per_head[SHIPPED]
    found, best = own.loc[INDEXER], own.loc[CEILING]
    share = Number.of("recall, of the best shared set's",
                      ratio(found["recall"], best["recall"], found.index, seed=seed))  # fmt: skip
    numbers = [
        share,
        _number("recall of each head's top-k", found["recall"], seed),
        _number("the same, best shared set", best["recall"], seed),
        _number("recall of the head-averaged top-k",
                _by_prompt(frames[SHIPPED], "head_sum").loc[INDEXER]["recall"], seed),
        _number("mass", found["mass"], seed),
        _number("mass, best shared set", own.loc[MOST_MASS]["mass"], seed),
    ]  # fmt: skip
    for stage, table in per_head.items():
        if stage != SHIPPED:
            other = table.loc[INDEXER]["recall"]
            numbers.append(_number(f"recall, {stage} less {SHIPPED}",
                                   other - found["recall"][other.index], seed))  # fmt: skip
    sentence = (
        f"It finds {numbers[1]} of each head's own keys, the best shared set {numbers[2]}: {share} "
        f"of what one set can find; its keys hold {numbers[4]} of the mass, the best shared set's "
        f"{numbers[5]}; the median output error is {found['output_error'].median():.2f}."
    )
    caveats = ["What a missed key costs is in the mass and the output error, not in the recall."]
    if len(frames) == 1:
        caveats.append("Only one stage was measured: the shipped package holds no other "
                       "checkpoint; name one with --stages.")  # fmt: skip
    return Verdict(at_least(share, BAR), sentence, tuple(numbers), tuple(caveats))


def _each(scores: pd.DataFrame) -> pd.DataFrame:
    """Means of the measures by target, selector and prompt, over its rows that count."""
    counting = scores[~scores["trivial"]]
    return counting.groupby(["target", "selector", "sample"])[MEASURES].mean().reset_index()


def _by_prompt(scores: pd.DataFrame, target: str) -> pd.DataFrame:
    """[selector, sample] x measures"""
    each = _each(scores)
    return each[each["target"] == target].set_index(["selector", "sample"])[MEASURES]


def _number(name: str, values: pd.Series, seed: int) -> Number:
    kept = values.clip(-1, 1)  # float32 sums can end a hair over 1
    return Number.of(name, mean(kept, values.index, lowest=-1.0, seed=seed))


if __name__ == "__main__":
    run(SCRIPT, study, __doc__)
