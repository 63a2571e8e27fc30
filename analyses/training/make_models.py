"""Trains the reference models again, stage by stage, and puts them where they ship.

    python analyses/training/make_models.py                      all of them
    python analyses/training/make_models.py needle-dsa -o runs   one, its stages under runs/
    python analyses/training/make_models.py --jobs 3             models that need no other at once
    python analyses/training/make_models.py --resume             goes on where it was stopped

Every stage is one call of `indexer-lab train`; curves and states stay in the output folder, with
each model's terminal output in <model>.log and the seconds of each stage in make_models.csv. With
several GPUs the jobs are spread over them.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

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
        Stage("pretrain", "needle-dense-5-settle"),
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


@dataclass
class Workshop:
    """Trains models in processes of their own, some side by side.

    output: folder of all runs. resume: goes on with what stands there.
    """

    output: Path
    resume: bool
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _started: int = 0

    def train(self, name: str, after: "Future[Path] | None" = None) -> Path:
        """Runs a model's stages, each from the one before; returns the last checkpoint's folder.

        after: a model that it starts from and that is trained in the same run.
        """
        if after is not None:
            after.result()
        device, model = self._device(), base_of(name, self.output)
        for number, stage in enumerate(STAGES[name], 1):
            folder = folder_of(name, number, self.output)
            finished = folder / "model" / "config.json"
            if not (self.resume and finished.exists()):
                started = time.monotonic()
                self._run(name, stage, folder, model, device)
                self._note(name, number, stage, time.monotonic() - started)
            model = folder / "model"
        assert model is not None
        return model

    def _run(
        self, name: str, stage: Stage, folder: Path, model: Path | None, device: dict[str, str]
    ) -> None:
        """One stage. Raises SystemExit with the last line that the command line said."""
        plan = PLANS / f"{stage.plan}.yaml"
        words = ["train", stage.command, "--plan", str(plan), "-o", str(folder), *stage.options]
        words += [*(["--model", str(model)] if model else []), *["--resume"] * self.resume]
        log = self.output / f"{name}.log"
        with log.open("a") as file:
            ended = subprocess.run(
                [sys.executable, "-m", "indexer_lab", *words],
                stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **device}, check=False,
            )  # fmt: skip
        if ended.returncode:
            said = log.read_text().strip().splitlines()
            raise SystemExit(f"{name}, {stage.plan}: {said[-1] if said else 'no output'} ({log})")

    def _device(self) -> dict[str, str]:
        """The environment that gives a job the next GPU, where there are several."""
        with self._lock:
            self._started += 1
            several = torch.cuda.device_count()
            chosen = (self._started - 1) % max(several, 1)
        return {"CUDA_VISIBLE_DEVICES": str(chosen)} if several > 1 else {}

    def _note(self, name: str, number: int, stage: Stage, seconds: float) -> None:
        """Prints a stage's time and adds it to make_models.csv."""
        print(f"{name} stage {number} ({stage.plan}): {seconds:.0f} s", flush=True)
        row = {"model": name, "stage": number, "plan": stage.plan, "seconds": round(seconds, 1)}
        path = self.output / "make_models.csv"
        with self._lock:
            new = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)


def order(asked: list[str]) -> list[str]:
    """The models asked for, each after the one that it starts from."""
    return sorted(dict.fromkeys(asked), key=lambda name: name in BASES)


def main() -> None:
    """Trains the models named, or all, and replaces the shipped ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", default=list(STAGES), help=", ".join(STAGES))
    parser.add_argument("-o", "--output", type=Path, default=Path("runs"))
    parser.add_argument("--jobs", type=int, default=1, help="models trained side by side")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--no-ship", action="store_true", help="leave the shipped models alone")
    given = parser.parse_args()
    for name in given.models:
        if name not in STAGES:
            parser.error(f"unknown model {name!r}: known are {', '.join(STAGES)}")
    if given.jobs < 1:
        parser.error(f"--jobs {given.jobs}: expected 1 or more")
    given.output.mkdir(parents=True, exist_ok=True)
    shop, made = Workshop(given.output, given.resume), dict[str, Future[Path]]()
    with ThreadPoolExecutor(given.jobs) as pool:
        for name in order(given.models):
            made[name] = pool.submit(shop.train, name, made.get(BASES.get(name, "")))
    for name, ended in made.items():
        last = ended.result()
        if not given.no_ship:
            shutil.copytree(last, FOLDER / name, dirs_exist_ok=True)
            print(f"{name}: shipped from {last}")


if __name__ == "__main__":
    main()
