"""How exact must a top-k be? Quality against the precision of the selection, at a fixed budget.

    python analyses/precision_and_quality.py                        about four minutes on two cores
    python analyses/precision_and_quality.py --full --device cuda   8,192 tokens, fifty prompts
    python analyses/precision_and_quality.py --model hub-id --prompts prompts.jsonl --budget 2048

A dial sets the precision of an exact top-k. The study leaves open which exact keys an approximate
top-k keeps and what fills the other places, so both are knobs here: the kept keys are the best
ranked or drawn at random, the fill ranks next or is drawn at random. A model with an indexer runs
on its picks beside it. The answering prompts are captured and scored as well: what do recall, mass
and output error say of quality, and which layer costs most when it alone selects?
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from indexer_lab.cli.quality_step import quality_step
from indexer_lab.cli.relate_step import relate_step
from indexer_lab.cli.scoring_step import score_step
from indexer_lab.cli.steps import capture_step
from indexer_lab.relating import join, swap_effects
from indexer_lab.statistics.correlation import correlate
from indexer_lab.statistics.mean import mean
from indexer_lab.statistics.threshold import threshold
from indexer_lab.store.quality import Quality
from indexer_lab.store.scores import Scores
from study import (
    Answer,
    Asked,
    Number,
    Script,
    Size,
    Verdict,
    all_of,
    at_least,
    draw,
    draw_table,
    run,
)
from study.models import has_indexer
from study.quality import TEXT, TOKENS, kinds, paired

TASKS = ("multi_key", "multi_value", TEXT)
SCRIPT = Script(
    "precision_and_quality",
    "The higher the precision of an approximate top-k, the better the quality.",
    "needle-dsa",
    Size(TASKS, 2032, 6),
    Size(TASKS, 8160, 50),
    extra={"budget": {"type": int, "default": 8, "help": "keys of a query (8)"}},
)
PRECISIONS = (0.25, 0.5, 0.75, 0.875)
FILLS, KEEPS = ("next", "random"), ("best", "uniform")
KNOBS = {
    "keep": "keeping exact keys at random instead of the best",
    "fill": "a random fill instead of the next",
}
SHARE = 0.95  # of full attention's quality: under it, quality is broken
TARGET = "per_head"
SWAP_SAMPLES = 3  # of a task; a layer's price differs far more than a prompt's
SETTINGS = r"dial:precision=(?P<precision>[\d.]+),fill=(?P<fill>\w+),keep=(?P<keep>\w+)"


@dataclass(frozen=True)
class Curve:
    """One way to be imprecise."""

    fill: str
    keep: str

    def __str__(self) -> str:
        kept = "the best are kept" if self.keep == "best" else "kept at random"
        return f"{kept}, {self.fill} fill"


CURVES = tuple(Curve(fill, keep) for keep in KEEPS for fill in FILLS)


def study(asked: Asked) -> Answer:
    learned = ("lightning",) if has_indexer(asked.model) else ()
    dials = tuple(
        f"dial:precision={p},fill={c.fill},keep={c.keep}" for c in CURVES for p in PRECISIONS
    )
    options: dict[str, Any] = {
        "budgets": str(asked.more["budget"]), "tokens": TOKENS, "batch": 8, "entropy": "none"
    }  # fmt: skip
    quality = quality_step(
        **asked.reading(), **options, output=asked.work / "dial", modes=("decode",),
        selectors=(*learned, *dials),
    )  # fmt: skip
    capture = capture_step(
        **asked.reading(), output=asked.work / "capture", positions="last:16", values=True,
        witnesses=0,
    )  # fmt: skip
    scores = score_step(
        capture=capture.path, output=asked.work / "scores", selectors=(*learned, *dials),
        budgets=options["budgets"], targets=(TARGET,), **asked.again(),
    )  # fmt: skip
    figures, tables = _related(asked, scores, quality)
    swaps = quality_step(
        **_answering(asked).reading(), **options, output=asked.work / "swaps", modes=("replay",),
        selectors=("exact", *learned), baselines=False, swap_layers="all",
    )  # fmt: skip
    figures.append(draw(asked, "kl_by_swapped_layer", swaps.path))
    rows = dialled(paired(quality.frame()))
    tables |= {"dial": by_precision(rows), "swaps": _swaps(swaps)}
    return Answer(judge(rows, asked.more["budget"], asked.seed), tables, tuple(figures))


def _answering(asked: Asked) -> Asked:
    """A few of the prompts that have an answer, for what is run layer by layer."""
    tasks = tuple(task for task in asked.tasks if task != TEXT) or asked.tasks
    return replace(asked, tasks=tasks, samples=min(asked.samples, SWAP_SAMPLES))


def _related(
    asked: Asked, scores: Scores, quality: Quality
) -> tuple[list[str], dict[str, pd.DataFrame]]:
    """Figures and tables of what fidelity says of quality, for answers and for text."""
    frame, origin = quality.frame(), {"scores": scores.manifest, "quality": quality.manifest}
    figures, tables = list[str](), dict[str, pd.DataFrame]()
    if frame["score"].notna().any():
        found = relate_step(
            scores=scores.path, quality=quality.path, output=asked.work / "relate", target=TARGET,
            mode="decode", seed=asked.seed, **asked.again(),
        )  # fmt: skip
        figures.append(draw(asked, "quality_by_precision", asked.work / "relate"))
        tables |= {name: found.answers[name] for name in ("relations", "predictors", "thresholds")}
    text = frame[frame["score"].isna() & frame["agreement"].notna()]
    if len(text):
        forced = join(scores.frame(), text.assign(mode="replay"), TARGET, "replay").pairs
        forced = forced.assign(target=TARGET, mode="replay")
        figures.append(draw_table(asked, "quality_by_precision", forced, origin,
                                  stem="precision_and_quality_of_text"))  # fmt: skip
    return figures, tables


def dialled(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `paired` that lie on a curve: the dial's, and exact top-k as each one's end.

    returns: their columns, `precision`, `fill`, `keep`, and `kept`: the quality that is left, of
             `whole`: right answers of full attention's, or full attention's share of the bits.
    """
    settings = rows["selector"].str.extract(SETTINGS)
    dial = rows.assign(**settings)[settings["fill"].notna()]
    exact = rows[rows["selector"] == "exact"]
    ends = [exact.assign(precision="1", fill=c.fill, keep=c.keep) for c in CURVES]
    both = pd.concat([dial, *ends], ignore_index=True)
    both["precision"] = both["precision"].astype(float)
    both["kept"] = both["quality"].where(~both["text"], both["full"] / both["quality"])
    both["whole"] = both["full"].where(~both["text"], 1.0)
    return both


def judge(rows: pd.DataFrame, budget: int, seed: int = 0) -> Verdict:
    """The verdict on rows of `dialled`. Exact keys that are kept at random decide: a share of them
    is what precision counts; where the best are kept, the numbers say how much that forgives."""
    parts = {
        (kind, curve): part[(part["fill"] == curve.fill) & (part["keep"] == curve.keep)]
        for kind, part in kinds(rows).items()
        for curve in CURVES
    }
    trends = {key: _trend(*key, own, seed) for key, own in parts.items()}
    needs = {key: _threshold(*key, own, seed) for key, own in parts.items()}
    effects = [_effect(k, part, knob, seed) for k, part in kinds(rows).items() for knob in KNOBS]
    deciding = {key: trend for key, trend in trends.items() if key[1].keep == "uniform"}
    sentence = (
        f"On {budget} keys, exact ones kept at random, the rank correlation of precision and "
        f"quality is {_told(deciding)}. Precision that {SHARE:.0%} of full quality needs: "
        f"{_told(needs)}. Lost besides: {'; '.join(f'{n.name}: {n}' for n in effects)}."
    )
    caveats = ("One model and one budget; with other budgets quality breaks elsewhere.",)
    finding = all_of(*(at_least(number, 0.0) for number in deciding.values()))
    return Verdict(finding, sentence, (*trends.values(), *needs.values(), *effects), caveats)


def _told(numbers: dict[tuple[str, Curve], Number]) -> str:
    return "; ".join(f"{number} ({kind}, {curve})" for (kind, curve), number in numbers.items())


def _trend(kind: str, curve: Curve, rows: pd.DataFrame, seed: int) -> Number:
    found = correlate(rows["precision"], rows["kept"], rows["sample"], "spearman", seed=seed)
    name = f"rank correlation of precision and quality, {kind}, {curve}"
    return Number.of(name, found, "correlation")


def _threshold(kind: str, curve: Curve, rows: pd.DataFrame, seed: int) -> Number:
    found = threshold(
        rows["precision"], rows["kept"], rows["whole"], rows["sample"], SHARE, seed=seed
    )
    return Number.of(f"precision needed, {kind}, {curve}", found, "precision")


def _effect(kind: str, rows: pd.DataFrame, knob: str, seed: int) -> Number:
    """How much more is lost with the one setting of a knob than with the other, all else alike."""
    first, other = ("best", "uniform") if knob == "keep" else FILLS
    wrong = rows[rows["precision"] < 1]
    key = ["sample", "precision", "keep" if knob == "fill" else "fill"]
    one, two = (wrong[wrong[knob] == each].set_index(key)["kept"] for each in (first, other))
    lost = (one - two).dropna()
    reach = max(1.0, lost.abs().max())
    found = mean(lost, lost.index.get_level_values("sample"), -reach, reach, seed=seed)
    return Number.of(f"{kind}, by {KNOBS[knob]}", found)


def by_precision(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each task, curve and precision: the quality left, and full attention's."""
    groups = rows.groupby(["task", "keep", "fill", "precision"])
    table = groups[["quality", "full", "kept", "loss"]].mean()
    table.insert(0, "samples", groups["sample"].nunique())
    return table.reset_index()


def _swaps(quality: Quality) -> pd.DataFrame:
    """What selecting in one layer alone costs, by selector and layer."""
    effects = ["swap_kl", "swap_delta_nll"]
    table = swap_effects(quality.frame()).groupby(["selector", "budget", "layer"])[effects]
    found = table.agg(["mean", "median", "min", "max"])
    return found.set_axis(["_".join(each) for each in found.columns], axis=1).reset_index()


if __name__ == "__main__":
    run(SCRIPT, study, __doc__)
