"""What selectors need that look at neighbouring decode steps: query rows without gaps."""

from __future__ import annotations

from indexer_lab.errors import InputError
from indexer_probes.records import LayerRecord


def need_every_step(record: LayerRecord, selector: str) -> None:
    """Raises InputError when a query position between the first and the last was not captured."""
    gaps = record.positions.diff() != 1
    if bool(gaps.any()):
        at = int(gaps.int().argmax())
        before, after = record.positions[at : at + 2].tolist()
        raise InputError(
            f"selector {selector!r} follows decode steps one by one, and layer {record.layer} of "
            f"this capture holds position {after} right after {before}; capture with "
            "--positions last:N"
        )
