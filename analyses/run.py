"""Runs the whole study, each script in its own process: about half an hour on two CPU cores.

    python analyses/run.py                              all nine
    python analyses/run.py --only entropy --only known_bugs
    python analyses/run.py --resume                     go on with a run that was stopped
    python analyses/run.py --full --device cuda         the large version, on a GPU

A script that fails is named at the end and does not stop the others; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer_lab.errors import LabError, unknown_name
from indexer_lab.store.files import read_json, write_json
from study.arguments import GALLERY, WORK

SCRIPTS = (
    "topk_decoding",
    "native_topk_training",
    "precision_and_quality",
    "indexer_precision",
    "entropy",
    "loss_waterfall",
    "known_bugs",
    "approximate_search",
    "neighbours",
)
"""In the order of the story; the first five are the claims of the paper's abstract."""

HERE = Path(__file__).parent


def main(given: Sequence[str] | None = None, scripts: Path = HERE) -> int:
    """Runs what is asked for; returns the exit code.

    scripts: the folder that they are in.
    """
    asked = _arguments(given)
    try:
        return _run_all(asked, scripts)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command with --resume goes on from here", file=sys.stderr)
        return 130


def _run_all(asked: argparse.Namespace, scripts: Path) -> int:
    names = chosen(asked.only)
    settings = passed_on(asked)
    book = _Book(asked.work / "finished.json", settings)
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for number, name in enumerate(names, start=1):
        head = f"[{number}/{len(names)}] {name}"
        before = book.seconds(name) if asked.resume else None
        if before is not None:
            seconds[name] = before
            print(f"{head}: done before, in {before:.0f} s", flush=True)
            continue
        print(head, flush=True)
        start = time.perf_counter()
        reason = _run_one(scripts / f"{name}.py", settings, asked)
        seconds[name] = time.perf_counter() - start
        if reason:
            failed[name] = reason
            print(f"{name}: {reason}; going on", file=sys.stderr, flush=True)
        else:
            book.finish(name, seconds[name])
    print(summary(names, seconds, failed, asked.output))
    return 1 if failed else 0


@dataclass(frozen=True)
class _Book:
    """Which scripts finished with these settings, and in how many seconds; for --resume."""

    path: Path
    settings: list[str]

    def seconds(self, name: str) -> float | None:
        entry = self._entries().get(name, {})
        return entry["seconds"] if entry.get("settings") == self.settings else None

    def finish(self, name: str, seconds: float) -> None:
        entry = {"seconds": round(seconds, 1), "settings": self.settings}
        write_json(self.path, {**self._entries(), name: entry})

    def _entries(self) -> dict[str, Any]:
        return read_json(self.path, "study") if self.path.exists() else {}


def chosen(only: Sequence[str] | None) -> list[str]:
    """The scripts that were asked for, in the study's order. Raises InputError for no script."""
    for name in only or ():
        if name not in SCRIPTS:
            raise unknown_name("script", name, SCRIPTS)
    return [name for name in SCRIPTS if not only or name in only]


def passed_on(asked: argparse.Namespace) -> list[str]:
    """The flags that every script gets."""
    flags = ["--full"] if asked.full else []
    for name in ("samples", "seed", "device", "output"):
        value = getattr(asked, name)
        if value is not None:
            flags += [f"--{name}", str(value)]
    return flags


def summary(
    names: Sequence[str], seconds: dict[str, float], failed: dict[str, str], output: Path | None
) -> str:
    """A line for each script: its time and its verdict, or why there is none; the sum below."""
    width = max(map(len, names))
    lines = []
    for name in names:
        verdict = f"FAILED: {failed[name]}" if name in failed else _verdict(output, name)
        lines.append(f"{name:<{width}}  {seconds[name]:>5.0f} s  {verdict}")
    minutes = sum(seconds.values()) / 60
    lines.append(f"{len(names) - len(failed)} of {len(names)} in {minutes:.1f} minutes")
    return "\n".join(lines)


def _verdict(output: Path | None, name: str) -> str:
    found = read_json((output or GALLERY) / f"{name}.json", "verdict")
    return f"{found['finding']}: {found['claim']}"


def _run_one(path: Path, settings: list[str], asked: argparse.Namespace) -> str:
    """Why a script failed; "" when it did not."""
    if not path.exists():
        return f"there is no {path}"
    folder = asked.work / (f"{path.stem}-full" if asked.full else path.stem)
    work = [] if asked.work == WORK else ["--work", str(folder)]
    resume = ["--resume"] if asked.resume else []
    code = subprocess.run([sys.executable, path, *settings, *work, *resume], check=False).returncode
    return f"left with exit code {code}" if code else ""


def _arguments(given: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", action="append", help="this script only; repeatable")
    add("--resume", action="store_true", help="pass over what is done, go on with the rest")
    add("--full", action="store_true", help="the large version, for a GPU")
    add("--samples", type=int, help="prompts per task, for a quick look")
    add("--seed", type=int)
    add("--device", help="cpu or cuda")
    add("-o", "--output", type=Path, help="figures, tables, verdicts (figures/gallery)")
    add("--work", type=Path, default=WORK, help=f"captures and rows ({WORK})")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
