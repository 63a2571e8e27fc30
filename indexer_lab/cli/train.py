"""indexer-lab train"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from indexer_lab.cli import options

if TYPE_CHECKING:
    from indexer_lab.training.config import Plan

Stage = Callable[..., None]


@click.group("train", short_help="Train reference models and Lightning Indexers.")
def command() -> None:
    """Train small models on retrieval, and the indexers of any deepseek_v32 checkpoint.

    A plan (YAML, see analyses/training) says what is learned: data, lengths, steps, rates. The
    output folder gets curve.csv, a state to resume from, and the trained checkpoint in model/.
    Several GPUs: `accelerate launch --module indexer_lab train …`.
    """


train = command


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    plan = click.option(
        "--plan", required=True, type=click.Path(path_type=Path), help="YAML file of the stage."
    )
    model = click.option("--model", help="Checkpoint to start from: a path or a shipped name.")
    device = click.option("--device", help="cpu or cuda; by default cuda where there is one.")
    hours = click.option("--hours", type=float, help="Stop at a checkpoint after so long.")
    for option in (device, hours, model, plan, options.output("the run"), options.talk):
        function = option(function)
    return click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")(
        function
    )


@command.command("pretrain", short_help="Train a new model, or go on with one.")
@_options
def pretrain(**given: Any) -> None:
    """Train a new model as the plan describes it, with dense attention.

    \b
    indexer-lab train pretrain --plan analyses/training/needle-dsa-1-pretrain.yaml -o runs/dense/
    """
    from indexer_lab.training.stages import finetune

    _run(finetune, **given)


@command.command("sft", short_help="Fine-tune with full or native top-k attention.")
@click.option(
    "--attention",
    default="full",
    show_default=True,
    help="full, topk:k=256 or topk:ratio=0.05: the exact top-k of every query and head.",
)
@_options
def sft(attention: str, **given: Any) -> None:
    """Fine-tune a checkpoint; the attention is the only thing that differs between two runs.

    \b
    indexer-lab train sft --model needle-dense --plan sft.yaml --attention topk:k=256 -o runs/topk/
    """
    from functools import partial

    from indexer_lab.training.attention import parse_attention
    from indexer_lab.training.stages import finetune

    _run(partial(finetune, attention=parse_attention(attention)), **_with_model(given))


@command.command("indexer-warmup", short_help="Teach the indexers alone.")
@_options
def indexer_warmup(**given: Any) -> None:
    """Teach the indexers of a deepseek_v32 checkpoint where its dense attention looks.

    \b
    indexer-lab train indexer-warmup --model my-model/ --plan warmup.yaml -o runs/warmup/
    """
    from indexer_lab.training.stages import warm_up

    _run(warm_up, **_with_model(given))


@command.command("indexer-sparse", short_help="Train model and indexers on selected keys.")
@_options
def indexer_sparse(**given: Any) -> None:
    """Train a deepseek_v32 checkpoint with attention over the keys that its indexers select.

    \b
    indexer-lab train indexer-sparse --model runs/warmup/model --plan sparse.yaml -o runs/sparse/
    """
    from indexer_lab.training.stages import sparsify

    _run(sparsify, **_with_model(given))


def _with_model(given: dict[str, Any]) -> dict[str, Any]:
    from indexer_lab.errors import InputError

    if not given["model"]:
        raise InputError("no --model: this stage starts from a checkpoint, so name one")
    return given


def _run(
    stage: Stage,
    plan: Path,
    output: Path,
    model: str | None,
    device: str | None,
    hours: float | None,
    resume: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    import json
    import math

    from accelerate import PartialState

    from indexer_lab.backend import device_named
    from indexer_lab.training import models
    from indexer_lab.training.config import read_plan
    from indexer_lab.training.loop import last_row

    steps = read_plan(plan)
    if device is not None:
        device_named(device)
    processes = PartialState(cpu=device == "cpu")
    network, tokenizer = _start(steps, model, device or str(processes.device))
    models.fit(network, tokenizer, steps)
    limit = math.inf if hours is None else hours * 3600
    stage(steps, network, tokenizer, output, resume=resume, quiet=quiet or as_json, limit=limit)
    if not processes.is_main_process:
        return
    models.save(network, tokenizer, output / "model")
    last = last_row(output)
    if as_json:
        click.echo(json.dumps({"model": str(output / "model"), **last}))
    elif not quiet:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
        click.echo(f"{output / 'model'}: {shown}")


def _start(plan: Plan, model: str | None, device: str) -> tuple[Any, Any]:
    """The named checkpoint, or a new model and tokenizer as the plan describes them."""
    from indexer_lab.reference import resolve
    from indexer_lab.training import models

    if model is not None:
        return models.load(resolve(model), device)
    return models.new_model(plan).to(device), models.new_tokenizer(plan)
