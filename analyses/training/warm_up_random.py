"""Teaches the indexers of a fresh random deepseek_v32 checkpoint and prints what they learned.

    python analyses/training/warm_up_random.py                      80 s of one core
    python analyses/training/warm_up_random.py --curve curve.csv   also copies its loss curve

Makes the checkpoint of random-dsa-warmup.yaml, runs `indexer-lab train indexer-warmup` on it, and
says how many of the dense attention's top keys (mean over heads) the indexers picked at the
beginning and at the end.
"""

import argparse
import csv
import shutil
from pathlib import Path

from indexer_lab.cli import main as indexer_lab
from indexer_lab.training import models
from indexer_lab.training.config import read_plan

PLAN = Path(__file__).parent / "random-dsa-warmup.yaml"
ENDS = 10  # steps that are averaged at the beginning and at the end


def checkpoint(folder: Path) -> Path:
    """The plan's model with random weights, saved as transformers loads it."""
    plan = read_plan(PLAN)
    models.save(models.new_model(plan), models.new_tokenizer(plan), folder)
    return folder


def means(curve: Path, name: str) -> tuple[float, float]:
    """A column's mean over the first and over the last ENDS steps."""
    with curve.open(newline="") as file:
        values = [float(row[name]) for row in csv.DictReader(file)]
    return sum(values[:ENDS]) / ENDS, sum(values[-ENDS:]) / ENDS


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/random-dsa"))
    parser.add_argument("--curve", type=Path, help="copy of the loss curve")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    model, run = given.output / "model", given.output / "warm-up"
    if not (given.resume and model.exists()):
        checkpoint(model)
    words = ["train", "indexer-warmup", "--plan", str(PLAN), "--model", str(model), "-o", str(run)]
    try:
        indexer_lab(words + ["--resume"] * given.resume)
    except SystemExit as end:
        if end.code:
            raise
    for name in ("loss", "recall"):
        first, last = means(run / "curve.csv", name)
        print(f"{name}: {first:.3f} in the first {ENDS} steps, {last:.3f} in the last {ENDS}")
    if given.curve:
        shutil.copy(run / "curve.csv", given.curve)


if __name__ == "__main__":
    main()
