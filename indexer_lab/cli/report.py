"""indexer-lab report"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer_lab.cli import options


@click.command("report", short_help="One HTML file that says what runs found.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The HTML file; one that stands there is replaced.",
)
@click.option(
    "--no-figures", is_flag=True, help="Draw no figures where no folder of them is given."
)
@options.config
@options.talk
def command(**given: Any) -> None:
    """Put finished folders (of capture, score, quality, relate, figures, or with verdicts of the
    study) into one HTML file that opens offline: verdicts, warnings, figures with their readings,
    sortable tables, the loss waterfall, provenance and the commands to repeat it.

    \b
    indexer-lab report capture/ scores/ quality/ relate/ -o report.html
    """
    from indexer_lab.cli.report_step import report_step

    made = report_step(**given)
    if given["as_json"]:
        import json
        from dataclasses import asdict

        found = [
            {"state": v.state, "claim": v.claim, "sentence": v.sentence} for v in made.verdicts
        ]
        figures = {each.name: each.reading for each in made.pictures}
        waterfalls = [asdict(fall) for fall in made.falls]
        content = {
            "report": str(given["output"]),
            "verdicts": found,
            "warnings": made.cautions,
            "figures": figures,
            "waterfalls": waterfalls,
        }
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
    elif not given["quiet"]:
        for verdict in made.verdicts:
            click.echo(f"{verdict.state}: {verdict.sentence}")
        for caution in made.cautions:
            click.echo(f"warning: {caution}")
        click.echo(f"the report is in {given['output']}")
