"""The command line that all scripts of the study share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

GALLERY = Path("figures/gallery")
WORK = Path("runs/study")


@dataclass(frozen=True)
class Size:
    """How much a script reads: built-in tasks, tokens of a prompt, prompts of a task."""

    tasks: tuple[str, ...]
    length: int
    samples: int


@dataclass(frozen=True)
class Script:
    """A script of the study.

    name:  of its file, its verdict and its folder under runs/.
    claim: what it puts to the test, one sentence.
    model: a shipped one, unless another is named.
    small: for two CPU cores, under ten minutes; full: for a GPU.
    extra: its own flags: name -> what argparse's add_argument takes.
    """

    name: str
    claim: str
    model: str
    small: Size
    full: Size
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """The settings of one run, resolved.

    tasks:  empty where `prompts` is a file.
    work:   folder for captures, scores and quality rows; output: for figures, tables and verdict.
    resume: keep what `work` holds; else it is made anew.
    more:   the script's own flags.
    """

    script: str
    model: str
    tasks: tuple[str, ...]
    prompts: Path | None
    length: int
    samples: int
    seed: int
    device: str
    dtype: str
    full: bool
    output: Path
    work: Path
    resume: bool
    quiet: bool
    more: dict[str, Any] = field(default_factory=dict)

    def reading(self) -> dict[str, Any]:
        """What quality_step and capture_step take alike: the model, its prompts, how to go on."""
        return {
            "model": self.model,
            "prompts": self.prompts,
            "tasks": self.tasks,
            "length": self.length,
            "samples": self.samples,
            "seed": self.seed,
            "device": self.device,
            "dtype": self.dtype,
            **self.again(),
        }

    def again(self) -> dict[str, Any]:
        """What every step takes of a folder that is there already."""
        return {"resume": self.resume, "force": not self.resume, "quiet": self.quiet}

    def settings(self) -> dict[str, Any]:
        """What identifies the run, for its record."""
        left_out = {"script", "output", "work", "resume", "quiet", "more"}
        return {k: v for k, v in asdict(self).items() if k not in left_out} | self.more


def ask(script: Script, about: str | None, given: Sequence[str] | None = None) -> Asked:
    """The settings that a command line asks for.

    about: the script's docstring; its lines are the help text.
    given: the arguments; None for those of the process. --full changes the defaults only.
    """
    found = vars(_parser(script, about).parse_args(given))
    size = script.full if found["full"] else script.small
    tasks = tuple(found.pop("task") or size.tasks)
    more = {name: found.pop(name) for name in script.extra}
    folder = f"{script.name}-full" if found["full"] else script.name
    return Asked(
        script=script.name,
        tasks=() if found["prompts"] else tasks,
        length=_or(found.pop("length"), size.length),
        samples=_or(found.pop("samples"), size.samples),
        work=found.pop("work") or WORK / folder,
        more=more,
        **found,
    )


def _or(given: int | None, otherwise: int) -> int:
    return otherwise if given is None else given


def _parser(script: Script, about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=script.model, help=f"shipped model, folder or hub id ({script.model})")
    add("--task", action="append", help="built-in task; repeatable")
    add("--prompts", type=Path, help="JSONL with id and text or input_ids, instead of tasks")
    add("--length", type=int, help=f"tokens of a built-in prompt ({script.small.length})")
    add("--samples", type=int, help=f"built-in prompts per task ({script.small.samples})")
    add("--seed", type=int, default=0)
    add("--device", default="cpu", help="cpu or cuda")
    add("--dtype", default="auto", help="of the model: auto, float32, bfloat16, float16")
    add("--full", action="store_true", help=f"the large version, for a GPU: {_size(script.full)}")
    add("-o", "--output", type=Path, default=GALLERY, help=f"figures, tables, verdict ({GALLERY})")
    add("--work", type=Path, help=f"captures and rows ({WORK / script.name})")
    add("--resume", action="store_true", help="go on with a run that was stopped")
    add("--quiet", action="store_true", help="no progress, no verdict in words")
    for name, options in script.extra.items():
        add(f"--{name.replace('_', '-')}", dest=name, **options)
    return parser


def _size(size: Size) -> str:
    return f"{size.length:,} tokens, {size.samples} prompts of each of {len(size.tasks)} tasks"
