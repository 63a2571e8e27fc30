"""indexer-lab check"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer_lab.cli import options


@click.command("check", short_help="Let scores pass gates, or fail.")
@click.argument("scores", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--min",
    "least",
    multiple=True,
    metavar="MEASURE[.AGGREGATE]=NUMBER",
    help="Like recall=0.9 (the mean) or recall.p1=0.5; repeatable. Aggregates: mean, median, min, "
    "p1, p10, p90, p99, max.",
)
@click.option(
    "--max",
    "most",
    multiple=True,
    metavar="MEASURE[.AGGREGATE]=NUMBER",
    help="Like output_error.p99=0.1; repeatable.",
)
@click.option(
    "--gates",
    type=click.Path(path_type=Path),
    help="YAML list of gates, each with its own selector, target, budget, layer, task and per.",
)
@click.option(
    "--selector", "selectors", multiple=True, help="Only this one; else all but baselines."
)
@click.option("--target", "targets", multiple=True, help="Only this target; repeatable.")
@click.option("--budget", "budgets", help="Only these budgets: 256,1024.")
@click.option("--layers", help="Only these layers, like 0,3,10-20.")
@click.option("--task", "tasks", multiple=True, help="Only prompts of this task; repeatable.")
@click.option(
    "--per",
    multiple=True,
    type=click.Choice(["layer", "head", "task", "sample"]),
    help="Ask it of each of these alone; repeatable.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Scores of a reference run: no layer may be worse than there.",
)
@click.option(
    "--tolerance",
    "tolerances",
    multiple=True,
    metavar="[MEASURE[.AGGREGATE]=]NUMBER",
    help="How much worse, in the measure's unit; a bare number is for the means of recall, mass "
    "and output error. 0 when left out.",
)
@click.option("--against-selector", help="The reference's selector, where its name differs.")
@options.config
@options.talk
def command(**given: Any) -> None:
    """Hold score folders to thresholds. Every selector, target, level and budget is asked alone;
    trivial rows are left out, and their share is said. Exit code 0: all gates hold, 1: one failed,
    2: bad input, a gate over no rows among it.

    \b
    indexer-lab check scores/ --min recall=0.9 --min mass.p1=0.5 --selector lightning --per layer
    indexer-lab check port/ --against reference/ --tolerance 0.005
    """
    from indexer_lab.cli.check_step import as_rows, check_step
    from indexer_lab.errors import GateFailed

    rulings = check_step(**{k: v for k, v in given.items() if k not in ("quiet", "as_json")})
    failed = [(name, ruling) for name, ruling in rulings if not ruling.passed]
    if given["as_json"]:
        import json

        click.echo(json.dumps(as_rows(rulings), indent=2, ensure_ascii=False))
    elif not given["quiet"]:
        for name, ruling in rulings:
            click.echo(f"{ruling}" if len(given["scores"]) == 1 else f"{name}: {ruling}")
    if failed:
        name, first = failed[0]
        raise GateFailed(
            f"{len(failed)} of {len(rulings)} gates failed; the first, {name}: {first.sentence}"
        )
    if not given["quiet"] and not given["as_json"]:
        click.echo(f"all {len(rulings)} gates hold")
