"""indexer-lab import-selection"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer_lab.cli import options


@click.command(
    "import-selection", short_help="Store what a serving engine picked beside a capture."
)
@click.argument("capture", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--layers",
    help="Which of the model's layers the file holds: 0,3,10-20. Left out: its first column "
    "is layer 0, and so on.",
)
@click.option(
    "--start",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Position of the first row: vLLM's indexer_topk_prompt_start.",
)
@click.option(
    "--indexer-layers",
    type=click.IntRange(min=1),
    help="Layers of an SGLang payload whose response does not say.",
)
@click.option(
    "--ordered",
    is_flag=True,
    help="Best key first, so that smaller budgets mean something. Engines return sets.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A .safetensors file; selections/<first file>.safetensors in the capture when left out.",
)
@click.option("--force", is_flag=True, help="Replace the file that stands there.")
@options.config
@options.talk
def command(**given: Any) -> None:
    """Read the keys that an engine picked for the prompts of a capture (SGLang's or vLLM's
    responses with --enable-return-indexer-topk as JSON or JSON lines; .npy, .npz or .safetensors
    of [token, layer, k]), check them, and store them for the selector `recorded`.

    \b
    indexer-lab import-selection capture/ sglang.json
    indexer-lab score capture/ --selector native --budget 2048 \\
        --selector recorded:capture/selections/sglang.safetensors -o scores/
    """
    from indexer_lab.cli.import_step import import_step

    made = import_step(**{k: v for k, v in given.items() if k not in ("quiet", "as_json")})
    if given["as_json"]:
        import json

        click.echo(json.dumps({"file": str(made.path), **made.counts}, indent=2))
    elif not given["quiet"]:
        for line in made.lines():
            click.echo(line)
