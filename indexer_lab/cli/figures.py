"""indexer-lab figures"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer_lab.cli import options


@click.command("figures", short_help="Draw the figures of finished folders.")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--figure", "names", multiple=True, help="Only this one, see `ls figures`; repeatable."
)
@click.option("--target", help="Draw for this target; head_sum, or the one scored, when left out.")
@click.option(
    "--budget",
    type=int,
    help="At this one; left out: the smallest for quality figures, the largest for others.",
)
@click.option("--task", help="Draw for this task; all tasks together when left out.")
@click.option("--selector", "selectors", multiple=True, help="Only this selector; repeatable.")
@click.option("--mode", help="Quality figures in this mode; decode, or replay, when left out.")
@options.config
@options.output("PNG, SVG, the plotted numbers (CSV) and provenance (JSON)")
@options.talk
def command(**given: Any) -> None:
    """Draw every figure that folders of score, quality and relate can show, one of each kind; each
    figure with its numbers and its provenance.

    \b
    indexer-lab figures scores/ quality/ relate/ -o out/
    """
    from indexer_lab.cli.figures_step import figures_step

    drawn = figures_step(**given)
    if given["as_json"]:
        import json

        click.echo(json.dumps({d.name: d.reading for d in drawn.made}, indent=2))
    elif not given["quiet"]:
        for figure in drawn.made:
            click.echo(f"{figure.name}: {figure.reading}")
        for name, reason in drawn.left_out.items():
            click.echo(f"not drawn, {name}: {reason}")
        click.echo(f"figures drawn: {len(drawn.made)}, in {given['output']}")
