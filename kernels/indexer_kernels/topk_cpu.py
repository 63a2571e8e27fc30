"""Top-k on a CPU: score and position packed into one integer, then numpy's vectorised select.

Where few are taken, most scores are out at a glance: they lie below a bound that is read off the
maxima of groups. An int64 whose high half orders like the score and whose low half falls with the
position has no equals, so any partition of it is the one answer that the tie rule allows. numpy
partitions and sorts such integers with AVX2 or AVX-512; torch has no vectorised select on CPU,
which is why numpy (always there beside torch) does this step.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

GROUPS = (16, 8, 4)  # scores that share one maximum: the more, the less is compared
ROOM = 1.5  # groups a place that is taken: with fewer, their maxima let too many scores pass
BLOCK_SCORES = 1 << 18  # one block of packed scores is 2 MiB: it stays in a core's cache


def topk_cpu(rows: Tensor, take: int) -> tuple[Tensor, Tensor]:
    """The `take` largest scores of each row, largest first, equal scores by lowest position.

    rows:    float32, bfloat16 or float16 [row, key] on CPU, no NaN, fewer than 2**31 keys.
    take:    0 <= take <= keys.
    returns: values [row, take] in the rows' dtype and int64 positions [row, take].
    Threads: as many as torch uses; numpy lets go of the interpreter while it selects.
    """
    count, keys = rows.shape
    positions = torch.empty(count, take, dtype=torch.int64)
    if take:
        out = positions.numpy()
        scores = rows.float().numpy()
        step = max(1, BLOCK_SCORES // keys)
        blocks = [slice(start, start + step) for start in range(0, count, step)]

        def select(block: slice) -> None:
            out[block] = _largest(scores[block], take)

        _each(select, blocks)
    return rows.gather(-1, positions), positions


def _each(work: Callable[[slice], None], blocks: list[slice]) -> None:
    threads = min(torch.get_num_threads(), len(blocks))
    if threads <= 1:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, blocks))


def _largest(scores: np.ndarray, take: int) -> np.ndarray:
    """int64 [row, take]: positions of the largest scores, in order."""
    keys = scores.shape[-1]
    group = next((size for size in GROUPS if take * ROOM <= keys // size), None)
    survivors = None if group is None else _survivors(scores, take, group)
    if survivors is None:
        packed = _pack(scores, np.arange(keys - 1, -1, -1, dtype=np.int64))
    else:
        packed = _gathered(scores, survivors)
    width = packed.shape[-1]
    if take < width:
        packed.partition(width - take, axis=-1)
    best = np.sort(packed[:, width - take :], axis=-1)[:, ::-1]
    return keys - 1 - (best & 0xFFFFFFFF)


def _survivors(scores: np.ndarray, take: int, group: int) -> np.ndarray | None:
    """Flat places that hold every row's `take` largest scores; None where they are too many.

    The take-th largest of the maxima of disjoint groups is no larger than the take-th largest
    score, so a score below it is out. Spread-out scores leave about take * 1.3 a row.
    """
    count, keys = scores.shape
    groups = keys // group
    # a group is every groups-th key: so numpy takes the maximum of whole runs
    maxima = scores[:, : groups * group].reshape(count, group, groups).max(axis=1)
    maxima.partition(groups - take, axis=-1)
    passed = scores >= maxima[:, groups - take, None]
    widest = int(np.count_nonzero(passed, axis=-1).max())
    return np.flatnonzero(passed) if widest * 2 <= keys else None


def _gathered(scores: np.ndarray, places: np.ndarray) -> np.ndarray:
    """int64 [row, most places of a row]: the scores at these flat places, packed; empty places come
    before every score."""
    count, keys = scores.shape
    row, key = np.divmod(places, keys)
    held = np.bincount(row, minlength=count)
    slot = np.arange(len(places)) - np.repeat(np.cumsum(held) - held, held)
    packed = np.full((count, int(held.max())), np.iinfo(np.int64).min)
    packed[row, slot] = _pack(scores.reshape(-1)[places], keys - 1 - key)
    return packed


def _pack(scores: np.ndarray, low: np.ndarray) -> np.ndarray:
    """int64: float32 scores in the high half, as they compare, and these numbers in the low one."""
    packed = _ordered_bits(scores).astype(np.int64)
    packed <<= 32
    packed |= low
    return packed


def _ordered_bits(scores: np.ndarray) -> np.ndarray:
    """int32 that compares as the float32 does; adding 0 first makes -0 and +0 one value."""
    bits = (scores + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
