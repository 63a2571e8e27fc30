"""indexer-lab validate"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from indexer_lab.cli import options

if TYPE_CHECKING:
    from indexer_lab.validating import Proof


@click.command("validate", short_help="Prove that a capture gives back the model's own attention.")
@click.argument("capture", type=click.Path(path_type=Path))
@options.talk
def command(capture: Path, quiet: bool, as_json: bool) -> None:
    """Prove on the stored tensors that the logits give back the model's own eager attention
    weights, and recomputed index scores the model's own selection. Exit code 1 when they do not."""
    from indexer_lab.errors import GateFailed

    proofs = validate_step(capture, quiet or as_json)
    if as_json:
        import json

        click.echo(json.dumps([{**asdict(p), "holds": p.holds} for p in proofs], indent=2))
    elif not quiet:
        from indexer_lab.cli.tables import print_proofs

        print_proofs(proofs)
    broken = [proof for proof in proofs if not proof.holds]
    if broken:
        raise GateFailed(
            f"{len(broken)} of {len(proofs)} layer records do not give back the model's own "
            f"numbers; the first is sample {broken[0].sample!r}, layer {broken[0].layer}"
        )


def validate_step(path: Path, quiet: bool) -> list[Proof]:
    """The proofs of every sample and layer of a capture."""
    from indexer_lab.progress import progress
    from indexer_lab.store.capture import open_capture
    from indexer_lab.validating import prove

    capture = open_capture(path)
    proofs = []
    with progress("validate", len(capture.samples) * len(capture.layers), quiet) as advance:
        for sample, layer in capture.parts():
            proofs.append(prove(capture.record(sample, layer), sample.id))
            advance(f"{sample.id}, layer {layer}")
    return proofs
