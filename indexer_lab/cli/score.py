"""indexer-lab score"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer_lab.cli import options


@click.command("score", short_help="Hold selectors against the exact top-k of a capture.")
@click.argument("capture", type=click.Path(path_type=Path))
@click.option(
    "--selector",
    "selectors",
    multiple=True,
    help="Like lightning:precision=fp8; repeatable. exact, random and sink_recent always run.",
)
@click.option(
    "--budget", "budgets", default="256", show_default=True, help="Keys per query: 64,256."
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="What exact means, see `ls targets`; repeatable. Default: head_sum for a model with an "
    "indexer, per_head for others.",
)
@click.option("--layers", help="Only these captured layers, like 0,3,10-20.")
@click.option("--limit", type=int, help="At most this many samples.")
@click.option(
    "--show",
    default="recall,mass",
    show_default=True,
    help="Measures in the table, see `ls measures`.",
)
@click.option(
    "--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, cuda:N, auto."
)
@options.backend
@options.config
@options.output("the scores")
@options.rerun
@options.talk
def command(show: str, **given: Any) -> None:
    """Compute every measure for every selector and budget, into parquet, and print the table.

    \b
    indexer-lab score capture/ --selector lightning --selector faiss:HNSW32 --budget 64,256 -o s/
    """
    from indexer_lab.cli.scoring_step import measures_named, score_step
    from indexer_lab.summary import KEYS, summarise

    shown = measures_named(show)
    scores = score_step(**given)
    needed = [*KEYS, "trivial", "sets", *shown]
    summary = summarise(scores.frame(needed), shown)
    if given["as_json"]:
        click.echo(summary.to_json(orient="records", indent=2))
    elif not given["quiet"]:
        from indexer_lab.cli.tables import print_summary

        print_summary(summary, shown)
        click.echo(
            f"scores are in {scores.path}; draw them with: indexer-lab figures {scores.path} -o …"
        )
