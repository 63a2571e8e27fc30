"""The command line. Commands are loaded when they are called, so that --help answers at once."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

from indexer_lab import __version__
from indexer_lab.errors import LabError

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "The whole way on a shipped model: from capture to report."),
    "capture": ("capture", "Run a model on prompts and keep its queries, keys and indexers."),
    "validate": ("validate", "Prove that a capture gives back the model's own attention."),
    "score": ("score", "Hold selectors against the exact top-k of a capture."),
    "quality": ("quality", "Run a model on what a selector picks, and see what that costs."),
    "relate": ("relate", "What fidelity says of quality: correlations, thresholds, predictors."),
    "figures": ("figures", "Draw the figures of a score table."),
    "report": ("report", "One HTML file that says what runs found, readable offline."),
    "check": ("check", "Hold scores to thresholds, or to a reference run; for CI."),
    "import-selection": ("import_selection", "Store what a serving engine picked, for score."),
    "train": ("train", "Train reference models and Lightning Indexers."),
    "ls": ("ls", "List what is known: selectors, targets, measures, tasks, families, figures."),
}
"""Command name -> the module of indexer_lab.cli that defines `command`, and its one line."""

OURS = ("RecordError", "ProbeError", "KernelError", "FigureError")
"""Errors of the packages below this one that speak to the user, as LabError does."""


class Commands(click.Group):
    """A group whose commands live in modules that are imported on use, and whose errors are one
    line each: 0 done, 1 a gate failed, 2 bad input, 3 out of memory or disk, 130 stopped."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{COMMANDS[name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from indexer_lab.errors import unknown_name

            raise unknown_name("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            sys.exit(super().main(*args, **kwargs) or 0)
        except Exception as error:
            spoken = sentence(error)
            if spoken is None:
                raise
            text, code = spoken
            if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one tells it
                click.echo(f"error: {text}", err=True)
            sys.exit(code)
        except KeyboardInterrupt:
            click.echo("stopped; the same command with --resume goes on from here", err=True)
            sys.exit(130)


def sentence(error: Exception) -> tuple[str, int] | None:
    """What to tell the user and the exit code; None for an error that is a defect of ours."""
    if isinstance(error, LabError):
        return str(error), error.exit_code
    if isinstance(error, click.Abort):
        return "stopped; the same command with --resume goes on from here", 130
    if isinstance(error, click.ClickException):
        return " ".join(error.format_message().split()), 2
    if type(error).__name__ in OURS and type(error).__module__.startswith("indexer_"):
        return str(error), 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some room and add --resume", 3
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return (
            f"out of memory ({str(error).splitlines()[0][:120] if str(error) else 'MemoryError'}); "
            "use shorter prompts, fewer --positions or a smaller --dtype",
            3,
        )
    return None


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError"
        or "not enough memory" in text
        or "can't allocate memory" in text  # the same, as torch says it on Linux
    )


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="indexer-lab")
def main() -> None:
    """Which keys did a sparse-attention selector miss, and what did that cost?"""
