"""Attention for training: dense, or the exact top-k of each query with gradients.

Both replace a transformers model's attention by name, so any model that calls
`ALL_ATTENTION_FUNCTIONS` can be trained with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel

from indexer_lab.errors import InputError

CHUNK = 256  # queries whose scores exist at the same time


@dataclass(frozen=True)
class Full:
    """Every key before the query."""

    def budget(self, visible: int) -> int:
        return visible


FULL = Full()


@dataclass(frozen=True)
class TopK:
    """The k keys with the highest logits of each query and head; exactly one of k and ratio.

    k:     keys a query.
    ratio: share of the sequence's keys, rounded up.
    """

    k: int | None = None
    ratio: float | None = None

    def budget(self, visible: int) -> int:
        """Keys a query may attend to in a sequence of `visible` keys."""
        if self.k is not None:
            return min(self.k, visible)
        assert self.ratio is not None
        return max(1, min(visible, math.ceil(self.ratio * visible)))


def parse_attention(text: str) -> Full | TopK:
    """``full``, ``topk:k=256`` or ``topk:ratio=0.05``. Raises InputError for anything else."""
    if text == "full":
        return Full()
    kind, _, setting = text.partition(":")
    name, _, number = setting.partition("=")
    try:
        if kind == "topk" and name == "k" and int(number) > 0:
            return TopK(k=int(number))
        if kind == "topk" and name == "ratio" and 0 < float(number) <= 1:
            return TopK(ratio=float(number))
    except ValueError:
        pass
    raise InputError(
        f"attention {text!r}: expected full, topk:k=N with N > 0, or topk:ratio=R with 0 < R <= 1"
    )


def dense_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal softmax attention over every key.

    query, key: [batch, head, query, dim] and [batch, kv_head, key, dim]; value like key.
    returns:    [batch, head, query, value_dim].
    """
    return F.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


def topk_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, budget: int) -> Tensor:
    """Causal softmax attention of each query and head over its `budget` largest logits.

    Shapes as in `dense_attention`. The choice has no gradient; the kept logits have. Scores exist
    for `CHUNK` queries at a time, in the backward pass too, where they are computed again.
    """
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    outputs = []
    for start in range(0, query.shape[2], CHUNK):
        end = min(start + CHUNK, query.shape[2])
        part = (query[:, :, start:end], key[:, :, :end], value[:, :, :end], scale, budget)
        outputs.append(checkpoint(_topk_rows, *part, use_reentrant=False))
    return torch.cat(outputs, dim=2)


def _topk_rows(query: Tensor, key: Tensor, value: Tensor, scale: float, budget: int) -> Tensor:
    """The last `query` rows of a causal sequence of `key` tokens."""
    logits = (query @ key.mT).float() * scale  # (batch, head, query, key)
    rows, columns = logits.shape[-2:]
    hidden = torch.ones(rows, columns, dtype=torch.bool, device=logits.device)
    hidden = hidden.triu(columns - rows + 1)
    logits = logits.masked_fill(hidden, -torch.inf)
    if budget < columns:
        kept, where = logits.topk(budget, dim=-1)
        weights = torch.zeros_like(logits).scatter(-1, where, kept.softmax(-1))
    else:
        weights = logits.softmax(-1)
    return weights.to(value.dtype) @ value


@contextmanager
def attention_of(model: PreTrainedModel, kind: Full | TopK) -> Iterator[None]:
    """Within the block the model attends as `kind` says; sequences are causal and unpadded."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
        scaling: float | None = None, **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        budget = kind.budget(key.shape[2])
        if budget >= key.shape[2]:
            output = dense_attention(query, key, value, scale)
        else:
            output = topk_attention(query, key, value, scale, budget)
        return output.transpose(1, 2).contiguous(), None

    with named_attention(model, "indexer_lab_training", attend):
        yield


@contextmanager
def named_attention(model: PreTrainedModel, name: str, attend: Any) -> Iterator[None]:
    """Registers an attention function and makes a model use it within the block."""
    AttentionInterface.register(name, attend)
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before
