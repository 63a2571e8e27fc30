"""Which tensors of a checkpoint each part of the model is made of, proven before any is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from indexer_probes.errors import ProbeError
from indexer_probes.loading import quantisation_of, refuse_incomplete, refuse_unplaced
from indexer_probes.streaming.checkpoint import Checkpoint
from indexer_probes.streaming.fp8 import block_of, scales_of
from indexer_probes.streaming.headers import Entry, plain
from indexer_probes.streaming.skeleton import Part, Skeleton


@dataclass(frozen=True)
class Parts:
    """The tensors of each part, and how its FP8 weights are scaled.

    weights: part -> tensors by checkpoint name, scales left out.
    scales:  name of an FP8 weight -> its scales. block: rows and columns that share a scale.
    """

    weights: Mapping[Part, Mapping[str, Entry]]
    scales: Mapping[str, Entry]
    block: tuple[int, int]

    def entries(self, part: Part) -> list[Entry]:
        """All that must be read for a part, scales included."""
        weights = self.weights[part]
        return [*weights.values(), *(self.scales[name] for name in weights if name in self.scales)]

    def size(self, part: Part) -> int:
        """Bytes on disk."""
        return sum(entry.size for entry in self.entries(part))


def parts_of(checkpoint: Checkpoint, frame: Skeleton) -> Parts:
    """Sorts a checkpoint's tensors into the model's parts.

    The whole checkpoint first goes through transformers' own conversion as tensors without
    storage, so that every name, shape and fusion is proven while nothing has been read.
    Raises ProbeError when weights and config.json do not belong together.
    """
    quantisation = quantisation_of(frame.model.config)
    block = None if quantisation is None else block_of(quantisation)
    scales = scales_of(checkpoint.entries, block)
    used = {scale.name for scale in scales.values()}
    weights = {key: entry for key, entry in checkpoint.entries.items() if key not in used}
    targets = frame.targets(iter(weights))
    _refuse_numbers(frame, weights, targets)
    _prove(str(checkpoint.folder), frame, weights)
    sorted_in: dict[Part, dict[str, Entry]] = defaultdict(dict)
    for key, entry in weights.items():
        if (part := frame.part_of(targets[key])) is not None:
            sorted_in[part][key] = entry
    return Parts(sorted_in, scales, block or (1, 1))


def _refuse_numbers(
    frame: Skeleton, weights: Mapping[str, Entry], targets: Mapping[str, str]
) -> None:
    """Raises ProbeError for whole numbers where the model has real ones."""
    known = frame.model.state_dict()
    for key, entry in weights.items():
        target = known.get(targets[key])
        if target is None or not target.is_floating_point() or entry.dtype.is_floating_point:
            continue
        raise ProbeError(
            f"{entry.file}: {key} has dtype {plain(entry.dtype)} and the model expects "
            f"{plain(target.dtype)}; these weights are damaged or of an unknown quantisation"
        )


def _prove(name: str, frame: Skeleton, weights: Mapping[str, Entry]) -> None:
    """Raises ProbeError for tensors that are missing, left over or of another shape."""
    bare = {
        key: torch.empty(entry.shape, dtype=frame.dtype, device="meta")
        for key, entry in weights.items()
    }
    report = frame.load(bare, device="meta")
    frame.model._adjust_missing_and_unexpected_keys(report)
    if report.conversion_errors:
        target, reason = sorted(report.conversion_errors.items())[0]
        raise ProbeError(
            f"the weights of {name!r} do not fit its config.json: {target} cannot be made of them "
            f"({_last_line(reason)})"
        )
    missing = set(report.missing_keys)
    for target, source in frame.model.all_tied_weights_keys.items():
        if source not in missing:
            missing.discard(target)
    refuse_incomplete(name, missing, report.mismatched_keys)
    refuse_unplaced(name, frame.model.config, report.unexpected_keys)


def _last_line(reason: str) -> str:
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    told: Iterator[Any] = (line for line in reversed(lines) if not line.startswith("Error"))
    return str(next(told, lines[-1] if lines else "no reason given"))
