"""Options of `quality` that only published tasks read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def published(command: Callable[..., Any]) -> Callable[..., Any]:
    folder = click.Path(path_type=Path)
    options = (
        click.option("--data", type=folder, help="helmet: the unpacked data folder."),
        click.option(
            "--include-path", type=folder, help="lm-eval: a folder of its YAMLs, beside its own."
        ),
        click.option(
            "--metadata",
            multiple=True,
            help="lm-eval: key=value for the task, like max_seq_lengths=[4096]; repeatable.",
        ),
        click.option(
            "--chat-template", is_flag=True, help="Published prompts in the chat template."
        ),
        click.option(
            "--allow-download", is_flag=True, help="lm-eval: fetch data that is not here yet."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
