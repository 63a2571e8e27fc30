"""A gate from a sample of the keys: a guess that the selection behind it certifies or refuses.

One key of every STRIDE neighbours is drawn, by a hash so that data with a period of its own is not
sampled at one phase of it. Of k keys in the top-k a sample holds k / STRIDE on average, so the
sampled value whose rank is that plus some standard deviations lies under the k-th, rarely not.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, sqrt

import torch
from torch import Tensor

from indexer_kernels.bound import group_bounds
from indexer_kernels.operands import Rows

STRIDE = 8
DEVIATIONS = 4.5  # of the sampled count; a row in a few 100,000 on independent keys comes short
SAMPLE_GROUPS = (8, 4, 2)


def sample_rank(k: int) -> int:
    """Rank in the sample under which the k-th key lies but for a row in a few 100,000."""
    mean = k / STRIDE
    return ceil(mean + DEVIATIONS * sqrt(mean) + DEVIATIONS**2 / 2)


def expected_candidates(k: int) -> int:
    """Keys that the gate lets through on independent keys, on average."""
    return sample_rank(k) * STRIDE


def sample_group(keys: int, k: int, causal: bool) -> int:
    """Sampled keys a group: large, so that the search is short, but four groups for every rank.

    Causal rows may see few groups, and many samples then share one: there a group has two.
    """
    if causal:
        return SAMPLE_GROUPS[-1]
    wide = [group for group in SAMPLE_GROUPS if keys // STRIDE // group >= 4 * sample_rank(k)]
    return wide[0] if wide else SAMPLE_GROUPS[-1]


def group_rank(samples: int, group: int, rank: int) -> int:
    """Groups of `group` samples that the `rank` largest of `samples` independent ones fall into."""
    if rank >= samples:
        return samples
    hit = 1 - (1 - rank / samples) ** group
    return max(1, round(samples / group * hit))


def sampled_bounds(rows: Rows, k: int) -> Tensor:
    """float32 [batch * row]: a gate for matrix-unit logits, -inf where a row sees few keys.

    On independent keys `expected_candidates` reach it. Memory: 4 * key / (STRIDE * group) bytes a
    row, and the sampled keys.
    """
    keys = rows.shape[2]
    picks = sampled_positions(keys, rows.keys.device)
    positions = rows.positions
    if positions is not None:
        seen = torch.searchsorted(picks, positions.to(picks.dtype), right=True, out_int32=True)
        positions = seen - 1
    window = None if rows.window is None else max(1, rows.window // STRIDE)
    sampled = Rows(rows.queries, rows.keys.index_select(1, picks), positions, window, rows.scale)
    group = sample_group(keys, k, positions is not None)
    return group_bounds(sampled, group_rank(len(picks), group, sample_rank(k)), group)


@lru_cache(maxsize=8)
def sampled_positions(keys: int, device: torch.device) -> Tensor:
    """int64 [sample], ascending: one key of every STRIDE neighbours."""
    start = torch.arange(0, keys, STRIDE, device=device)
    mixed = (start * 2654435761) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 2246822519) & 0xFFFFFFFF
    return (start + ((mixed >> 13) % STRIDE)).clamp(max=keys - 1)
