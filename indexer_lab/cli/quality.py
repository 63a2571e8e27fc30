"""indexer-lab quality"""

from __future__ import annotations

from typing import Any

import click

from indexer_lab.cli import options
from indexer_lab.cli.published_options import published


@click.command("quality", short_help="Run a model on what a selector picks, and see what it costs.")
@options.reading(samples=8)
@published
@click.option(
    "--selector",
    "selectors",
    multiple=True,
    help="Like dial:precision=0.6; repeatable. dense, exact, random and sink_recent always run.",
)
@click.option(
    "--budget", "budgets", default="256", show_default=True, help="Keys per query: 64,256."
)
@click.option(
    "--mode",
    "modes",
    multiple=True,
    help="replay (default), decode (published tasks' default) or prefill+decode; repeatable.",
)
@click.option(
    "--tokens",
    type=int,
    default=16,
    show_default=True,
    help="Most tokens to generate or replay; published tasks have their own.",
)
@click.option("--swap-layers", help="Also select in one layer at a time: 0,3,10-20 or all.")
@click.option(
    "--entropy",
    default="last:64",
    show_default=True,
    help="Prompt queries with entropy rows: last:N, every:N, random:N, all, or none. "
    "Published tasks have none.",
)
@click.option(
    "--batch",
    type=int,
    default=1,
    show_default=True,
    help="Samples that generate side by side; changes no row. Published tasks run one by one.",
)
@options.loading
@options.config
@options.seed
@options.output("the quality rows")
@options.rerun
@options.talk
def command(**given: Any) -> None:
    """Run a model while its attention sees only what a selector picks.

    \b
    replay          the dense run's tokens, prompt dense, the rest sparse: NLL and KL per token
    decode          the model's own tokens, prompt dense, the rest sparse: does it still answer?
    prefill+decode  the model's own tokens, everything sparse
    \b
    indexer-lab quality --model needle-dsa --task multi_key --mode replay --mode decode \\
        --selector lightning --selector dial:precision=0.6 --budget 64,256 -o quality/
    \b
    Published tasks bring their own prompts, answers and lengths; --limit counts per task:
    indexer-lab quality --model hub-id --task lm-eval:longbench2 --selector lightning -o quality/
    indexer-lab quality --model hub-id --task helmet:recall --data HELMET/data --length 8192 \\
        -o quality/
    """
    from indexer_lab.cli.published_step import any_step
    from indexer_lab.quality.summary import summarise

    quality = any_step(**given)
    summary = summarise(quality.frame(), quality.speed())
    if given["as_json"]:
        click.echo(summary.to_json(orient="records", indent=2))
    elif not given["quiet"]:
        from indexer_lab.cli.tables import print_quality

        print_quality(summary)
        click.echo(f"quality rows are in {quality.path}")
