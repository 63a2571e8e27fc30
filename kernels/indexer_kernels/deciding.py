"""Which design answers for which rows, in chunks that fit the workspace, and who repairs the rest.

A design fills positions or the k-th value of every row and says, row by row, whether it is proven.
The host waits once, for those marks; a row without its proof is answered again from stored logits,
and one whose logits may overflow from written sums of all its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from indexer_kernels import certified, harvest, stored
from indexer_kernels.bound import few
from indexer_kernels.operands import WORKSPACE, Rows, Tally
from indexer_kernels.row_topk import stored_topk
from indexer_kernels.sample import expected_candidates
from indexer_kernels.written import logits_at, row_logits

MOST_SCRATCH = 2 << 30  # harvest.py counts in 32 bits
Fill = Callable[[Rows, int, Tensor | None, Tensor | None, Tensor], None]


@dataclass(frozen=True)
class Design:
    """fill: answers rows; bytes_of: scratch bytes of a row; valued: values come with positions."""

    fill: Fill
    bytes_of: Callable[[Rows, int], int]
    valued: bool = False


# "certified" and "sampled bits" are kept for measurements alone: see docs/kernels.md
DESIGNS = {
    "harvested": Design(harvest.harvested, harvest.row_bytes),
    "stored": Design(stored.stored, stored.row_bytes),
    "certified": Design(certified.certified, certified.row_bytes, valued=True),
    "sampled bits": Design(
        partial(certified.certified, sampled=True), certified.row_bytes, valued=True
    ),
}


def design_for(rows: Rows, k: int) -> str:
    """Stored logits for few rows and for short ones, of which a gate would pass a good part."""
    batch, count, keys, _ = rows.shape
    if few(batch * count) or keys < 4 * expected_candidates(k):
        return "stored"
    return "harvested"


def answer(
    rows: Rows, k: int, chosen: Tensor | None, values: Tensor | None,
    workspace: int = WORKSPACE, tally: Tally | None = None, design: str | None = None,
) -> None:  # fmt: skip
    """Fills chosen int64 [batch, row, k], -1 in free places, or without it values float32 [batch,
    row], the k-th largest logit, -inf where there are fewer.

    values beside chosen: float32 [batch, row, k], for designs that are `valued`; None for others.
    While a CUDA graph is captured no row can be repaired: one without its proof holds -1, or -inf.
    """
    name = design or design_for(rows, k)
    made = DESIGNS[name]
    device = rows.queries.device
    failed = torch.empty(rows.shape[:2], dtype=torch.int8, device=device)
    room = min(workspace, MOST_SCRATCH)
    for heads, lines, part in chunks(rows, made.bytes_of(rows, k), room):
        made.fill(part, k, at(chosen, heads, lines), at(values, heads, lines), failed[heads, lines])
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return
    if tally is not None:
        tally.rows += failed.numel()
    if not bool(failed.any()):  # the one wait
        return
    lost = failed.nonzero()
    if tally is not None:
        tally.repaired += len(lost)
    again = from_written_sums if name == "stored" else from_stored_logits
    for one, picked in by_batch(lost, rows, workspace):
        found, places = again(rows.picked(one, picked), k, chosen is None)
        if values is not None:
            values[one, picked] = found
        if chosen is not None:
            chosen[one, picked] = places


def from_stored_logits(rows: Rows, k: int, kth_only: bool) -> tuple[Tensor, Tensor]:
    """values and positions [row, k] of one batch, or with kth_only the k-th value [row] alone."""
    lines, device = rows.shape[1], rows.queries.device
    chosen = torch.empty(1, lines, k, dtype=torch.int64, device=device)
    if kth_only:
        values = torch.empty(1, lines, dtype=torch.float32, device=device)
        answer(rows, k, None, values, design="stored")
    else:
        values = torch.empty(1, lines, k, dtype=torch.float32, device=device)
        answer(rows, k, chosen, None, design="stored")
        logits_at(rows, chosen, values)
    return values[0], chosen[0]


def from_written_sums(rows: Rows, k: int, kth_only: bool) -> tuple[Tensor, Tensor]:
    """The same from the final logits of every key, for operands whose error cannot be stated."""
    values, chosen = stored_topk(row_logits(rows), k)
    return (values.amin(-1) if kth_only else values), chosen


def at(tensor: Tensor | None, heads: slice, lines: slice) -> Tensor | None:
    return None if tensor is None else tensor[heads, lines]


def by_batch(lost: Tensor, rows: Rows, workspace: int) -> Iterator[tuple[int, Tensor]]:
    """Batches with rows (int64) out of lost int64 [row, 2], as many at a time as fit."""
    step = max(16, workspace // stored.row_bytes(rows, 1))
    for one in lost[:, 0].unique().tolist():
        yield from ((one, lines) for lines in lost[lost[:, 0] == one, 1].split(step))


def chunks(rows: Rows, row_bytes: int, workspace: int) -> Iterator[tuple[slice, slice, Rows]]:
    """Batch and row slices whose scratch stays near `workspace`, with their operands."""
    batch, count = rows.shape[:2]
    room = max(16, workspace // row_bytes)
    if room >= count:
        step = max(1, room // count)
        for start in range(0, batch, step):
            heads = slice(start, min(start + step, batch))
            yield heads, slice(0, count), rows.part(heads, slice(0, count))
        return
    step = room // 128 * 128 or room // 16 * 16
    for one in range(batch):
        for start in range(0, count, step):
            lines = slice(start, min(start + step, count))
            yield slice(one, one + 1), lines, rows.part(slice(one, one + 1), lines)
