"""indexer-lab relate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer_lab.cli import options


@click.command("relate", short_help="What fidelity says of quality.")
@click.argument("scores", type=click.Path(path_type=Path))
@click.argument("quality", type=click.Path(path_type=Path))
@click.option("--target", help="Fidelity to this target; head_sum, or the one scored, by default.")
@click.option("--mode", help="Quality in this mode; the first one that ran by default.")
@click.option(
    "--share",
    type=float,
    default=0.95,
    show_default=True,
    help="Of dense quality: the threshold's.",
)
@click.option(
    "--draws", type=int, default=2000, show_default=True, help="Resamples behind each interval."
)
@options.config
@options.seed
@options.output("the answers, as CSV")
@options.rerun
@options.talk
def command(**given: Any) -> None:
    """Join scores and quality sample by sample and answer, with intervals that resample prompts:
    how quality depends on recall, mass and output error and which predicts it best, the recall
    below which it falls, whether low entropy helps, and which layers matter. p-values are
    Holm-adjusted.

    \b
    indexer-lab relate scores/ quality/ -o relate/
    """
    from indexer_lab.cli.relate_step import relate_step

    found = relate_step(**given)
    if given["as_json"]:
        import json

        tables = {
            name: json.loads(t.to_json(orient="records")) for name, t in found.answers.items()
        }
        click.echo(json.dumps({"notes": found.joined.notes, **tables}, indent=2))
    elif not given["quiet"]:
        from indexer_lab.cli.tables import print_frame

        click.echo(", ".join(f"{name}: {value}" for name, value in found.joined.notes.items()))
        tested = int(found.answers["relations"]["p"].notna().sum())
        click.echo(f"p_holm is corrected for the {tested} correlations of this table\n")
        for name, table in found.answers.items():
            print_frame(name, table.drop(columns=["level", "share"], errors="ignore"))
        click.echo(f"the answers are in {given['output']}")
