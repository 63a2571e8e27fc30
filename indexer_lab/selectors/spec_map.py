"""A layer map calibrated on captures, or read from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.selectors.layer_map import layer_map, likeness
from indexer_lab.store.capture import Capture, open_capture
from indexer_lab.targets import target
from indexer_probes.records import LayerRecord

QUERIES = 32
"""Queries of a sample that a map is calibrated on, its last ones."""
SAMPLES = 4


def head_mean(record: LayerRecord, rows: slice) -> Tensor:
    """float32 [row, key]: attention averaged over heads, hidden keys at -inf."""
    return target("head_sum").chunk(record, rows, 1)[0]


def last_rows(record: LayerRecord) -> slice:
    return slice(max(0, record.rows - QUERIES), record.rows)


@lru_cache(maxsize=16)
def read_map(text: str, draft: str, layers: int) -> tuple[int, ...]:
    """Verify layer -> draft layer, from a JSON list or from a capture of the verifier to calibrate
    on. Raises InputError.

    draft:  folder of the draft's capture; layers: how many of its layers count, 0 for all.
    """
    path = Path(text)
    if path.is_dir():
        return tuple(calibrated(open_capture(path), open_capture(Path(draft)), layers))
    return listed(text)


def listed(text: str) -> tuple[int, ...]:
    """The map of a JSON file. Raises InputError."""
    try:
        found = json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"layer_map={text!r} is no JSON file that can be read: {error}") from error
    if not isinstance(found, list) or not all(type(each) is int and each >= 0 for each in found):
        raise InputError(
            f"layer_map={text!r} holds {str(found)[:40]}; expected a list of draft layers, one for "
            "each layer of the model"
        )
    return tuple(found)


def calibrated(verify: Capture, draft: Capture, layers: int = 0) -> list[int]:
    """The best monotone map over the last queries of the captures' first common samples."""
    wanted = range(layers) if layers else range(len(draft.layers))
    for capture, needed in ((verify, range(len(verify.layers))), (draft, wanted)):
        absent = set(needed) - set(capture.layers)
        if absent or not needed:
            raise InputError(
                f"{capture.path} holds layers {capture.layers}, and a layer map needs layer "
                f"{min(absent, default=0)} too: capture all of them"
            )
    common = {sample.id: sample for sample in draft.samples}
    pairs = [(each, common[each.id]) for each in verify.samples if each.id in common][:SAMPLES]
    if not pairs:
        raise InputError(f"{verify.path} and {draft.path} have no sample in common")
    total = torch.zeros(len(wanted), len(verify.layers), dtype=torch.float64)
    for sample, other in pairs:
        of = [verify.record(sample, layer) for layer in verify.layers]
        by = [draft.record(other, layer) for layer in wanted]
        total += likeness(attentions(of), attentions(by))
    return layer_map(total)


def attentions(records: Sequence[LayerRecord]) -> list[Tensor]:
    """float32 [query, key] of each layer: its last queries' attention. Raises InputError."""
    rows = [record.positions[last_rows(record)].tolist() for record in records]
    if any(each != rows[0] for each in rows):
        raise InputError("the captures hold other positions in one layer than in another")
    return [head_mean(record, last_rows(record)).clamp(min=0) for record in records]
