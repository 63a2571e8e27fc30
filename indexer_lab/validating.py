"""Proof that a capture holds what the model did: its attention weights and its own selection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels.topk import topk
from indexer_lab.store.records import finite
from indexer_probes import units
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Proof:
    """The worst differences of one sample and layer.

    weights_error:   largest |recomputed - the model's own| attention weight on the witness rows.
    weights_allowed: what rounding in the stored dtype explains: 4 eps max(1, largest |logit|).
    swapped:         keys of the native selection that recomputed index scores would not pick.
    score_gap:       how far, in index score, the worst of them lies under the boundary.
    score_allowed:   what float32 rounding explains: 1e-5 of the largest |index score|.
    indexer:         whose selection the layer has: own, of layer N (reused from there), or none.
    None stands for a layer without witness rows or without an indexer.
    """

    sample: str
    layer: int
    weights_error: float | None
    weights_allowed: float | None
    swapped: int | None
    score_gap: float | None
    score_allowed: float | None
    indexer: str = "none"

    @property
    def holds(self) -> bool:
        pairs = (
            (self.weights_error, self.weights_allowed),
            (self.score_gap, self.score_allowed),
        )
        return all(found is None or allowed is None or found <= allowed for found, allowed in pairs)


def prove(record: LayerRecord, sample: str) -> Proof:
    """Recomputes the witness rows' weights and the native selection of one record.

    Raises InputError when a stored tensor holds NaN.
    """
    finite(record)
    weights = _weights(record)
    scores = _selection(record)
    error, allowed = weights or (None, None)
    swapped, gap, slack = scores or (None, None, None)
    return Proof(
        sample, record.layer, error, allowed, swapped, gap, slack, _whose(record)
    )  # fmt: skip


def _whose(record: LayerRecord) -> str:
    if record.indexer is None:
        return "none"
    return "own" if record.indexer.source is None else f"of layer {record.indexer.source}"


def _weights(record: LayerRecord) -> tuple[float, float] | None:
    if record.witness is None or not len(record.witness.rows):
        return None
    rows = record.witness.rows
    logits = torch.cat([record.key_logits(rows), record.entry_logits(rows)], dim=-1)
    largest = logits[logits.isfinite()].abs().max().clamp(min=1.0)
    seen = units.attended(record, rows)
    seen = seen.repeat_interleave(len(logits) // len(seen), dim=0)
    recomputed = _softmax(logits.masked_fill(~seen, float("-inf")), record.mask.sinks)
    error = (recomputed - record.witness.weights).abs().max()
    allowed = 4 * torch.finfo(record.queries.dtype).eps * largest
    return float(error), float(allowed)


def _softmax(logits: Tensor, sinks: Tensor | None) -> Tensor:
    if sinks is None:
        return torch.softmax(logits, -1)
    column = sinks.float()[:, None, None].expand(-1, logits.shape[1], 1)
    return torch.softmax(torch.cat([logits, column], -1), -1)[..., :-1]


def _selection(record: LayerRecord) -> tuple[int, float, float] | None:
    indexer = record.indexer
    if indexer is None:
        return None
    swapped, gap, largest = 0, 0.0, 0.0
    for rows in record.chunks(indexer.queries.shape[0]):
        ranked = units.ranked(indexer, rows, record.positions[rows])
        known = ranked[ranked.isfinite()]
        largest = max(largest, float(known.abs().max()) if len(known) else 0.0)
        for scores, native in zip(ranked, indexer.native[:, rows], strict=True):
            short = _under_boundary(scores, native)
            swapped += int((short > 0).sum())
            gap = max(gap, float(short.max()))
    return swapped, gap, 1e-5 * max(largest, 1e-30)


def _under_boundary(scores: Tensor, native: Tensor) -> Tensor:
    """float32 [row, k]: how far each native key's score lies under the k-th largest; inf where the
    selection misses a visible key although it had places left.

    scores: float32 [row, unit], hidden ones at -inf, forced ones at inf; native: int64 [row, k], -1
            pads.
    """
    boundary = topk(scores, native.shape[-1])[0]  # (row, k), -inf where fewer keys are visible
    wanted = (boundary > float("-inf")).sum(-1)
    kept = native >= 0
    last = boundary.gather(-1, (wanted - 1).clamp(min=0)[:, None])
    own = scores.gather(-1, native.clamp(min=0))
    short = (last - own).nan_to_num(nan=0.0).clamp(min=0).masked_fill(~kept, 0.0)  # inf - inf
    unused = kept.sum(-1) < wanted
    return short.masked_fill(unused[:, None], float("inf"))
