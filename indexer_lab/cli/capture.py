"""indexer-lab capture"""

from __future__ import annotations

import os
from typing import Any

import click

from indexer_lab.cli import options


@click.command("capture", short_help="Run a model on prompts and keep its queries and keys.")
@options.reading(samples=2)
@click.option("--layers", help="Like 0,3,10-20; all when left out.")
@click.option(
    "--positions",
    default="last:256",
    show_default=True,
    help="Query rows to keep: last:N, every:N, random:N or all.",
)
@click.option("--values", is_flag=True, help="Keep values too; output errors need them.")
@click.option(
    "--witnesses", type=int, default=4, show_default=True, help="Rows kept as proof for validate."
)
@click.option(
    "--decode",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Generate this many tokens greedily after each prompt and keep their queries too.",
)
@options.loading
@options.spreading
@options.config
@options.seed
@options.output("the capture")
@options.rerun
@options.talk
def command(**given: Any) -> None:
    """Run a model on prompts and keep its queries, keys and indexer tensors.

    \b
    indexer-lab capture --model needle-dsa --task multi_key --length 2048 -o capture/
    indexer-lab capture --model meta-llama/Llama-3.1-8B --prompts prompts.jsonl -o capture/
    indexer-lab capture --model DeepSeek-V3.2-Exp/ --stream-layers --device cuda \\
        --prompts prompts.jsonl -o capture/
    """
    from indexer_lab.cli.steps import capture_step

    taken = capture_step(**given)
    if os.environ.get("RANK", "0") != "0":  # process 0 speaks for all that torchrun started
        return
    if given["as_json"]:
        import json

        click.echo(json.dumps(taken.manifest, indent=2, sort_keys=True))
    elif not given["quiet"]:
        layers = len(taken.layers)
        click.echo(f"captured {len(taken.samples)} samples x {layers} layers into {taken.path}")
