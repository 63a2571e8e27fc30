"""What a missed key costs the shipped model: quality, entropy and their relation to recall.

    python analyses/quality_of_needle_dsa.py               about half an hour on two CPU cores
    python analyses/quality_of_needle_dsa.py --samples 2   a look at it

Captures, scores, runs and relates, then writes tables and figures into figures/gallery. The model
answers from so few keys that budgets are small. A run that was stopped goes on with --resume.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from indexer_lab.cli.figures_step import figures_step
from indexer_lab.cli.quality_step import quality_step
from indexer_lab.cli.relate_step import relate_step
from indexer_lab.cli.scoring_step import score_step
from indexer_lab.cli.steps import capture_step
from indexer_lab.provenance import provenance
from indexer_lab.quality.summary import summarise
from indexer_lab.relating import swap_effects
from indexer_lab.store.files import write_json, written
from indexer_lab.store.quality import Quality

MODEL = "needle-dsa"
TASKS = ("multi_key", "variable_tracking", "key_value", "source_text")
DIAL = tuple(
    f"dial:precision={share},fill={fill},keep={keep}"
    for share in (0.25, 0.5, 0.75)
    for fill in ("next", "random")
    for keep in ("best", "uniform")
)
SHOWN = ("exact", "random", "sink_recent", "lightning")
TARGET = "per_head"
MODES = ("replay", "decode")
LENGTH, TOKENS = 2032, 16  # together what the model takes


def main() -> None:
    asked = _arguments()
    work, again = asked.work, {"resume": asked.resume, "force": not asked.resume, "quiet": True}
    read: dict[str, Any] = {"model": MODEL, "tasks": TASKS, "samples": asked.samples}
    read |= {"length": LENGTH, "seed": asked.seed, **again}
    ran: dict[str, Any] = {"budgets": asked.budgets, "modes": MODES, "tokens": TOKENS, "batch": 8}
    dialled = ("lightning", *DIAL)
    _say("quality under the dial, all layers at once")
    dial = quality_step(**read, **ran, output=work / "dial", selectors=dialled)
    _say("quality one layer at a time")
    quality = quality_step(
        **read, **ran, output=work / "quality", selectors=("lightning",), swap_layers="all"
    )
    _say("capture and score the same prompts")
    capture = capture_step(
        **read, output=work / "capture", positions="last:16", values=True, witnesses=0
    )
    score_step(
        capture=capture.path, output=work / "scores", selectors=dialled, budgets=asked.budgets,
        targets=(TARGET,), **again,
    )  # fmt: skip
    _say("relate: the dial's runs, once for each mode, and the swaps")
    relate: dict[str, Any] = {"scores": work / "scores", "target": TARGET, "seed": asked.seed}
    for mode in MODES:
        relate_step(
            **relate, quality=work / "dial", output=work / f"relate-{mode}", mode=mode, **again
        )
    relate_step(**relate, quality=work / "quality", output=work / "relate-swaps", **again)
    origin = provenance({"dial": dial.manifest, "quality": quality.manifest}, asked.seed)
    _tables(asked.output, dial, quality, work)
    write_json(asked.output / "quality_tables.json", origin)
    _figures(asked.output, work)


def _tables(output: Path, dial: Quality, quality: Quality, work: Path) -> None:
    frame = dial.frame()
    kept = ["samples", "delta_nll_mean", "kl_mean", "agreement_mean", "score_mean",
            "bits_per_byte_mean"]  # fmt: skip
    parts = []
    for task, own in frame.groupby("task"):
        table = summarise(own)
        table.insert(0, "task", task)
        parts.append(table[["task", "mode", "budget", "selector", *kept]])
    summary = pd.concat(parts, ignore_index=True)
    _csv(output / "quality_summary.csv", summary)
    settings = summary["selector"].str.extract(
        r"dial:precision=(?P<precision>[\d.]+),fill=(?P<fill>\w+),keep=(?P<keep>\w+)"
    )
    dialled = pd.concat([settings, summary], axis=1)[settings["fill"].notna()]
    _csv(output / "dial_effect.csv", dialled.drop(columns="selector"))
    effects = ["swap_kl", "swap_delta_nll", "swap_score"]
    swaps = swap_effects(quality.frame()).groupby(["selector", "budget", "layer"])[effects]
    _csv(output / "swaps_by_layer.csv", swaps.agg(["mean", "median", "min", "max"]), flat=True)
    for kind in (*MODES, "swaps"):
        for name in ("relations", "predictors", "thresholds"):
            found = pd.read_csv(work / f"relate-{kind}" / f"{name}.csv")
            _csv(output / f"{name}_{kind}.csv", found)


def _figures(output: Path, work: Path) -> None:
    names = ("quality_by_budget_ratio", "kl_by_swapped_layer", "entropy_distribution",
             "quality_by_entropy")  # fmt: skip
    for name in names:
        only = () if name == "entropy_distribution" else SHOWN
        drawn = figures_step(
            folders=(work / "quality",), output=output, names=(name,), selectors=only, quiet=True
        )
        _say(f"{name}: {drawn.made[0].reading}")
    drawn = figures_step(
        folders=(work / "relate-decode",), output=output, names=("quality_by_precision",),
        quiet=True,
    )  # fmt: skip
    _say(f"quality_by_precision: {drawn.made[0].reading}")


def _csv(path: Path, table: pd.DataFrame, flat: bool = False) -> None:
    if flat:
        table = table.set_axis(["_".join(each) for each in table.columns], axis=1).reset_index()
    with written(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.5g", lineterminator="\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=4, help="prompts per task")
    parser.add_argument("--budgets", default="4,8,16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/quality-of-needle-dsa"))
    parser.add_argument("-o", "--output", type=Path, default=Path("figures/gallery"))
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
