"""The capture of a streamed model, with what it read and took."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer_lab.capturing import Encoded, Plan
from indexer_lab.progress import progress
from indexer_lab.store.capture import Capture

if TYPE_CHECKING:
    from indexer_probes.streaming.model import StreamedModel


def streamed_step(
    model: StreamedModel,
    encoded: list[Encoded],
    plan: Plan,
    facts: dict[str, Any],
    output: Path,
    resume: bool,
    force: bool,
    silent: bool,
) -> Capture:
    """Captures layer by layer; says on stdout, and in streaming.json beside the capture, what the
    disk gave and what a layer took. See `capture --help`."""
    import click

    from indexer_lab import streamed_rates
    from indexer_lab.capturing_streamed import layers_ahead, run_streamed
    from indexer_lab.store.files import write_json
    from indexer_probes.streaming.reading import plain_rate

    ahead = layers_ahead(encoded, plan, None if force else output)
    rate = plain_rate(model.checkpoint.files) if ahead else 0.0
    with progress("stream", ahead, silent) as advance:
        taken = run_streamed(model, encoded, plan, facts, output, resume, force, advance)
    told = streamed_rates.facts(model.times, rate, len(model.frame.layers))
    if ahead:
        write_json(taken.path / "streaming.json", told)
    if not silent:
        click.echo(streamed_rates.summary(told))
    return taken
