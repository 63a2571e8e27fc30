"""Trains the reference models again, stage by stage, and puts them where they ship.

    python analyses/training/make_models.py                      all of them
    python analyses/training/make_models.py needle-dsa -o runs   one, its stages under runs/
    python analyses/training/make_models.py --resume             goes on where it was stopped

Every stage is one call of `indexer-lab train`; curves and states stay in the output folder.
"""

import argparse
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from indexer_lab.cli import main as indexer_lab
from indexer_lab.reference import FOLDER

PLANS = Path(__file__).parent


@dataclass(frozen=True)
class Stage:
    """One call of `indexer-lab train`: its subcommand, its plan and further options."""

    command: str
    plan: str
    options: tuple[str, ...] = ()


STAGES = {
    "needle-dense": (
        Stage("pretrain", "needle-dense-1-short"),
        Stage("pretrain", "needle-dense-2-lengthen"),
        Stage("pretrain", "needle-dense-3-long"),
        Stage("pretrain", "needle-dense-4-mixed"),
    ),
    "needle-dense-sft": (Stage("sft", "needle-sft", ("--attention", "full")),),
    "needle-topk-sft": (Stage("sft", "needle-sft", ("--attention", "topk:ratio=0.01")),),
    "needle-dsa": (
        Stage("pretrain", "needle-dsa-1-short"),
        Stage("pretrain", "needle-dsa-2-lengthen"),
        Stage("pretrain", "needle-dsa-3-long"),
        Stage("pretrain", "needle-dsa-4-mixed"),
        Stage("indexer-warmup", "needle-dsa-5-warmup"),
        Stage("indexer-sparse", "needle-dsa-6-sparse"),
    ),
}
BASES = {"needle-dense-sft": "needle-dense", "needle-topk-sft": "needle-dense"}


def folder_of(name: str, number: int, output: Path) -> Path:
    """Where a model's stage, counted from 1, is trained."""
    return output / name / f"{number}-{STAGES[name][number - 1].command}"


def base_of(name: str, output: Path) -> Path | None:
    """The checkpoint that a model's first stage starts from: this run's, or the shipped one."""
    if name not in BASES:
        return None
    base = BASES[name]
    trained = folder_of(base, len(STAGES[base]), output) / "model"
    return trained if (trained / "config.json").exists() else FOLDER / base


def train(name: str, output: Path, resume: bool) -> Path:
    """Runs a model's stages, each from the one before; returns the last checkpoint's folder."""
    model = base_of(name, output)
    for number, stage in enumerate(STAGES[name], 1):
        folder = folder_of(name, number, output)
        finished = folder / "model" / "config.json"
        if not (resume and finished.exists()):
            started = time.monotonic()
            run(stage, folder, model, resume)
            seconds = time.monotonic() - started
            print(f"{name} stage {number} ({stage.plan}): {seconds:.0f} s", flush=True)
        model = folder / "model"
    assert model is not None
    return model


def run(stage: Stage, folder: Path, model: Path | None, resume: bool) -> None:
    """One stage, in this process. Raises SystemExit with the command line's code on a mistake."""
    words = ["train", stage.command, "--plan", str(PLANS / f"{stage.plan}.yaml"), "-o", str(folder)]
    words += [*stage.options, *(["--model", str(model)] if model else [])]
    try:
        indexer_lab(words + ["--resume"] * resume)
    except SystemExit as end:
        if end.code:
            raise


def main() -> None:
    """Trains the models named, or all, and replaces the shipped ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", default=list(STAGES), help=", ".join(STAGES))
    parser.add_argument("-o", "--output", type=Path, default=Path("runs"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--no-ship", action="store_true", help="leave the shipped models alone")
    given = parser.parse_args()
    for name in given.models:
        if name not in STAGES:
            parser.error(f"unknown model {name!r}: known are {', '.join(STAGES)}")
        last = train(name, given.output, given.resume)
        if not given.no_ship:
            shutil.copytree(last, FOLDER / name, dirs_exist_ok=True)
            print(f"{name}: shipped from {last}")


if __name__ == "__main__":
    main()
