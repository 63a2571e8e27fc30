"""An indexer's operands as a bug would have made them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.selectors.lightning import Lightning
from indexer_probes.records import IndexerRecord, LayerRecord


def without_relu(indexer: IndexerRecord) -> IndexerRecord:
    """Negative products count against a key. Raises InputError where there is no ReLU to lose."""
    if indexer.activation == "none":
        raise InputError("faulty:bug=relu: this indexer has no ReLU to leave out")
    return replace(indexer, activation="none")


def coarse_weights(indexer: IndexerRecord, dtype: torch.dtype) -> IndexerRecord:
    """Head weights rounded to a narrow float, no scale beside them."""
    return replace(indexer, weights=indexer.weights.to(dtype).float())


def zeroed(indexer: IndexerRecord) -> IndexerRecord:
    """Every score 0: all keys tie."""
    return replace(indexer, weights=torch.zeros_like(indexer.weights))


def unscaled_keys(indexer: IndexerRecord) -> IndexerRecord:
    """The e4m3 codes of queries and keys as deployed, and each key's scale forgotten.

    Rotated before they are rounded, as deployed, where their width allows it.
    """
    width = indexer.keys.shape[-1]
    rotates = width & (width - 1) == 0  # a power of two
    return Lightning("fp8", hadamard=rotates).coded(indexer)[0]


def interleaved(
    record: LayerRecord, indexer: IndexerRecord, dim: int | None, theta: float | None
) -> IndexerRecord:
    """Pairs (2i, 2i + 1) turned in the place of (i, i + dim / 2), queries and keys alike.

    dim, theta: of the rotary embedding, where the capture does not know its turns.
    Raises InputError where nobody does.
    """
    turns = _turns(record, indexer, dim, theta)
    keys = torch.arange(len(indexer.keys), device=indexer.keys.device)
    return replace(
        indexer,
        queries=with_pairs_swapped(indexer.queries, record.positions, turns),
        keys=with_pairs_swapped(indexer.keys, keys, turns),
    )


def with_pairs_swapped(states: Tensor, positions: Tensor, turns: Tensor) -> Tensor:
    """float32 [..., token, dim]: turned back by halves, then turned by neighbouring pairs.

    states: [..., token, dim], turned by halves of its first 2 * pair dimensions.
    turns:  float32 [pair], radians a position.
    """
    pairs = len(turns)
    angle = positions[:, None].double() * turns.double()  # (token, pair)
    cosine, sine = angle.cos(), angle.sin()
    rotary, rest = states.double().split([2 * pairs, states.shape[-1] - 2 * pairs], dim=-1)
    first, second = rotary.chunk(2, dim=-1)
    plain = torch.cat([first * cosine + second * sine, second * cosine - first * sine], dim=-1)
    even, odd = plain[..., 0::2], plain[..., 1::2]
    turned = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1)
    return torch.cat([turned.flatten(-2), rest], dim=-1).float()


def _turns(
    record: LayerRecord, indexer: IndexerRecord, dim: int | None, theta: float | None
) -> Tensor:
    width = indexer.keys.shape[-1]
    if dim is None and theta is None and indexer.turns is not None:
        return indexer.turns
    if dim is None or theta is None:
        raise InputError(
            f"faulty:bug=rope: layer {record.layer} of this capture does not say how its indexer's "
            "pairs turn; capture it again, or give rope_dim and theta of a half-split embedding"
        )
    if dim % 2 or not 0 < dim <= width:
        raise InputError(
            f"faulty:bug=rope: rope_dim = {dim}; expected an even number up to the {width} "
            "dimensions of an index key"
        )
    steps = torch.arange(0, dim, 2, dtype=torch.float32, device=indexer.keys.device) / dim
    return 1.0 / theta**steps
