"""indexer-lab ls families"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from indexer_lab.progress import progress

if TYPE_CHECKING:
    from indexer_probes.proving import Verdict


def show(everything: bool, as_json: bool) -> None:
    """Proves every family and says how it went: proven first, then refused, then absent."""
    import transformers

    from indexer_probes.proving import listed, verdict

    transformers.logging.set_verbosity_error()
    names = listed(everything)
    found: list[Verdict] = []
    with progress("prove", len(names), as_json) as advance:
        for name in names:
            found.append(verdict(name))
            advance(name)
    if as_json:
        rows = {each.name: asdict(each) for each in found}
        click.echo(
            json.dumps({"transformers": transformers.__version__, "families": rows}, indent=2)
        )
        return
    for state, meaning in STATES.items():
        _part([each for each in found if each.state == state], meaning, transformers.__version__)


STATES = {
    "proven": "proven on transformers {}",
    "refused": "refused on transformers {}",
    "absent": "known, and not in transformers {}",
}


def _part(found: list[Verdict], meaning: str, version: str) -> None:
    if not found:
        return
    click.echo(f"{len(found)} {meaning.format(version)}:")
    width = max(len(each.name) for each in found)
    for each in found:
        said = [each.note, each.reason] if each.state == "proven" else [each.reason]
        click.echo(f"  {each.name:<{width}}  {' | '.join(part for part in said if part)}")
