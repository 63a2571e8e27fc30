"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from indexer_lab.errors import InputError, unknown_name

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _all(*decorators: Decorator) -> Decorator:
    """Several options as one decorator; --help lists them in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def reading(samples: int) -> Decorator:
    """Which model reads which prompts. samples: default number of built-in prompts per task."""
    task_help = "Prompts of a task instead, see `ls tasks`; repeatable."
    return _all(
        click.option("--model", required=True, help="Shipped model, folder, or hub id."),
        click.option("--revision", help="Branch, tag or commit on the hub."),
        click.option(
            "--prompts",
            type=click.Path(path_type=Path),
            help="JSONL with id and text or input_ids.",
        ),
        click.option("--task", "tasks", multiple=True, help=task_help),
        click.option(
            "--length",
            type=int,
            default=2048,
            show_default=True,
            help="Tokens of a built-in prompt.",
        ),
        click.option(
            "--samples",
            type=int,
            default=samples,
            show_default=True,
            help="Built-in prompts per task.",
        ),
        click.option("--limit", type=int, help="At most this many prompts."),
    )


def loading(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where and how the model is loaded."""
    return _all(
        click.option("--device", default="cpu", show_default=True, help="cpu or cuda."),
        click.option(
            "--dtype",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            default="auto",
            show_default=True,
            help="The model's dtype.",
        ),
        click.option(
            "--trust-remote-code",
            is_flag=True,
            help="Run Python code that comes with the model.",
        ),
    )(command)


def spreading(command: Callable[..., Any]) -> Callable[..., Any]:
    """How a model gets in that is larger than one device."""
    return _all(
        click.option(
            "--stream-layers",
            is_flag=True,
            help="Read the checkpoint layer by layer, FP8 blocks too; one layer is in memory.",
        ),
        click.option(
            "--device-map",
            help="Layers on several devices: auto, balanced, sequential, or JSON; not --device.",
        ),
        click.option(
            "--tensor-parallel",
            is_flag=True,
            help="Heads and experts over the processes that torchrun started.",
        ),
    )(command)


def output(what: str) -> Decorator:
    return click.option(
        "-o", "--output", type=click.Path(path_type=Path), required=True, help=f"Folder for {what}."
    )


def rerun(command: Callable[..., Any]) -> Callable[..., Any]:
    """--resume and --force: what to do with a folder that already holds a run."""
    resume = click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
    force = click.option("--force", is_flag=True, help="Throw away the run that stands there.")
    return resume(force(command))


def talk(command: Callable[..., Any]) -> Callable[..., Any]:
    """--quiet and --json."""
    quiet = click.option("--quiet", is_flag=True, help="No progress, no table.")
    as_json = click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
    return quiet(as_json(command))


def config(command: Callable[..., Any]) -> Callable[..., Any]:
    """--config: option values from a YAML file; the command line wins."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="YAML file with option values; the command line wins.",
    )(command)


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    from indexer_lab.store.files import read_yaml

    values = read_yaml(path, "configuration")
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no options; expected lines like `budget: [256, 1024]`")
    known = {name: p for p in ctx.command.params for name in _spellings(p)}
    defaults: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise unknown_name(f"option in {path}", str(name), known)
        found = known[str(name)]
        many = isinstance(found, click.Option) and found.multiple
        defaults[str(found.name)] = value if not many or isinstance(value, list) else [value]
    ctx.default_map = defaults


def _spellings(param: click.Parameter) -> list[str]:
    return [spelling.lstrip("-") for spelling in param.opts if spelling.startswith("--")]


def numbers(name: str, text: str) -> list[int]:
    """`256,1024` as whole numbers. Raises InputError naming the piece that is none."""
    found = []
    for piece in str(text).split(","):
        try:
            found.append(int(piece))
        except ValueError:
            raise InputError(f"{name} {text!r}: {piece!r} is no whole number") from None
    return found


def seed(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--seed", type=int, default=0, show_default=True, help="Seed of all that is random."
    )(command)
