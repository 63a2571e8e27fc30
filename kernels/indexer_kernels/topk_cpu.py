"""Top-k on a CPU: score and position packed into one integer, then numpy's vectorised select.

An int64 whose high half orders like the score and whose low half falls with the position has no
equals, so any partition of it is the one answer that the tie rule allows. numpy partitions and
sorts such integers with AVX2 or AVX-512; torch has no vectorised select on CPU, which is why numpy
(always there beside torch) does this step.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

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
    packed = _ordered_bits(scores).astype(np.int64)
    packed <<= 32
    packed |= np.arange(keys - 1, -1, -1, dtype=np.int64)
    if take < keys:
        packed.partition(keys - take, axis=-1)
    best = np.sort(packed[:, keys - take :], axis=-1)[:, ::-1]
    return keys - 1 - (best & 0xFFFFFFFF)


def _ordered_bits(scores: np.ndarray) -> np.ndarray:
    """int32 that compares as the float32 does; adding 0 first makes -0 and +0 one value."""
    bits = (scores + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
