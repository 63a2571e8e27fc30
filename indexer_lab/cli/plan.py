"""indexer-lab plan"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from indexer_lab.cli import options

if TYPE_CHECKING:
    from indexer_lab.planning.plan import Asked, Planned, Way

UNTOLD_GIB = 80.0


@click.command("plan", short_help="What a capture will need, from the configuration alone.")
@click.option("--model", required=True, help="Shipped model, folder, or hub id.")
@click.option("--revision", help="Branch, tag or commit on the hub.")
@click.option("--context", type=int, help="Tokens of a prompt; the model's limit when left out.")
@click.option("--prompts", type=int, default=1, show_default=True, help="How many prompts.")
@options.positions
@click.option("--values", is_flag=True, help="Keep values too.")
@click.option("--witnesses", type=int, default=4, show_default=True, help="Rows kept as proof.")
@click.option("--gpus", type=int, default=1, show_default=True, help="GPUs of the machine.")
@click.option(
    "--gpu-memory",
    type=float,
    help="GiB of each; this machine's GPU when left out, else 80.",
)
@click.option("--disk-rate", type=float, help="GB/s at which the checkpoint can be read.")
@options.loading
@options.config
@options.talk
def command(**given: Any) -> None:
    """Say what a capture will need and which way it fits. Reads no weights.

    \b
    indexer-lab plan --model deepseek-ai/DeepSeek-V3.2-Exp --context 163840 --prompts 8 \\
        --device cuda --gpu-memory 141
    indexer-lab plan --model needle-dsa --context 8192 --prompts 4 --json
    """
    from indexer_lab.cli.steps import _find
    from indexer_lab.planning.plan import plan

    _, config = _find(given["model"], given["revision"], given["trust_remote_code"])
    asked = _asked(config, given)
    planned = plan(config, asked)
    if given["as_json"]:
        import json

        click.echo(json.dumps(planned.as_dict(), indent=2, sort_keys=True))
    elif not given["quiet"]:
        click.echo("\n".join(_lines(asked, planned)))


def _asked(config: Any, given: dict[str, Any]) -> Asked:
    from indexer_lab import capturing
    from indexer_lab.planning.plan import DTYPES, Asked
    from indexer_lab.positions import parse

    stored = str(getattr(config, "dtype", None) or "bfloat16").removeprefix("torch.")
    dtype = stored if given["dtype"] == "auto" else given["dtype"]
    limit = capturing.limits_of(config).length
    context = given["context"] if given["context"] is not None else limit or 0
    return Asked(
        context=context,
        prompts=given["prompts"],
        positions=parse(given["positions"]),
        layers=capturing.layers_of(config, given["layers"]),
        values=given["values"],
        witnesses=given["witnesses"],
        itemsize=DTYPES.get(dtype, 2),
        device=given["device"],
        devices=given["gpus"],
        memory=_memory(given["gpu_memory"], given["device"]),
        disk_rate=None if given["disk_rate"] is None else given["disk_rate"] * 1e9,
    )


def _memory(gib: float | None, device: str) -> int:
    """Bytes of one device, as asked or as it has."""
    if gib is not None:
        return int(gib * 2**30)
    if device.startswith("cpu"):
        import os

        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return int(UNTOLD_GIB * 2**30)


def _lines(asked: Asked, planned: Planned) -> list[str]:
    """The plan for a person."""
    shape = f"{asked.prompts} prompts of {asked.context} tokens, {len(asked.layers)} layers"
    least = "at least " if planned.at_least else ""
    lines = [
        shape,
        f"  weights    {_size(planned.weights)}, the largest layer {_size(planned.layer)}",
        f"  working    {_size(planned.working)} above the weights while a prompt is captured",
        f"  disk       {_size(planned.disk)} for the capture",
        f"  computing  {least}{_time(planned.seconds)} on one device ({planned.rate})",
        "",
        f"  {'way':<16} {'devices':>7} {'each needs':>11}   of {_size(asked.memory)}",
    ]
    lines += [_line(way) for way in planned.ways]
    chosen = planned.chosen
    if chosen is None:
        return [*lines, "", "nothing fits: a shorter --context, fewer --positions, or more memory"]
    lines += ["", f"use {chosen.name}: {chosen.flags}"]
    if chosen.name == "streamed":
        lines += [f"  {_reading(planned)}; {_size(planned.beside)} more of disk while it runs"]
    return lines


def _line(way: Way) -> str:
    told = "fits" if way.fits else "does not fit"
    return f"  {way.name:<16} {way.devices:>7} {_size(way.memory):>11}   {told}"


def _reading(planned: Planned) -> str:
    if planned.read_seconds is None:
        at_one = _time(planned.checkpoint / 1e9)
        return f"reads {_size(planned.checkpoint)}: {at_one} for every 1 GB/s of disk (--disk-rate)"
    return f"reads {_size(planned.checkpoint)} in {_time(planned.read_seconds)}"


def _size(count: float) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1024:.1f} KiB"


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.2g} s"
