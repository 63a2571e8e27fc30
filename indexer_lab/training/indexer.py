"""The Lightning Indexer in training: its scores with gradients, and what they are distilled from.

transformers runs its indexer under `no_grad` and builds a [batch, query, head, key] tensor for all
queries at once. Here scores have gradients and exist for `CHUNK` queries at a time, in the backward
pass too, where they are computed again. The indexer reads detached inputs, so that its loss moves
the indexer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from indexer_lab.training.attention import CHUNK, dense_attention, named_attention
from indexer_lab.training.dsa import replaced_indexers, require_indexers
from indexer_lab.training.losses import distillation


class Operands(NamedTuple):
    """What an indexer scores with.

    queries: [batch, index_head, query, dim].
    keys:    [batch, key, dim].
    weights: float32 [batch, query, index_head], both scale factors in them.
    """

    queries: Tensor
    keys: Tensor
    weights: Tensor

    def rows(self, start: int, end: int, step: int = 1) -> Operands:
        """The same for some of the queries, with the keys up to the last of them."""
        queries = self.queries[:, :, start:end:step]
        return Operands(queries, self.keys[:, :end], self.weights[:, start:end:step])


def operands(
    indexer: Any, hidden: Tensor, q_resid: Tensor, rope: tuple[Tensor, Tensor]
) -> Operands:
    """An indexer's operands with gradients for its own weights and for nothing before them.

    hidden:  [batch, query, width], the layer's normed input.
    q_resid: [batch, query, rank], the normed query latent.
    rope:    cosines and sines, each [batch or 1, query, rotated].
    """
    hidden, q_resid = hidden.detach(), q_resid.detach()
    batch, count = hidden.shape[:2]
    cosines, sines = rope
    queries = indexer.wq_b(q_resid).view(batch, count, indexer.n_heads, indexer.head_dim)
    queries = _rotated(queries.transpose(1, 2), cosines[:, None], sines[:, None])
    keys = _rotated(indexer.k_norm(indexer.wk(hidden)), cosines, sines)
    scale = indexer.softmax_scale * indexer.n_heads**-0.5
    weights = indexer.weights_proj(hidden.to(indexer.weights_proj.weight.dtype)).float() * scale
    return Operands(queries, keys, weights)


def _rotated(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Half-split rotary embedding of the first dimensions: what the indexer uses, unlike MLA."""
    turned, kept = states.split([cosines.shape[-1], states.shape[-1] - cosines.shape[-1]], dim=-1)
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cosines + torch.cat((-second, first), dim=-1) * sines
    return torch.cat((turned.to(states.dtype), kept), dim=-1)


def index_scores(given: Operands) -> Tensor:
    """Scores float32 [batch, query, key], not masked: Σ_h weight · relu(query · key)."""
    products = given.queries.float() @ given.keys.float().mT.unsqueeze(1)  # (b, head, query, key)
    return (products.relu() * given.weights.transpose(1, 2).unsqueeze(-1)).sum(1)


def later_keys(rows: Tensor, keys: int) -> Tensor:
    """bool [query, key], true where a key lies after its query; rows: query positions."""
    return torch.arange(keys, device=rows.device) > rows[:, None]


def recall(scores: Tensor, target: Tensor, budget: int) -> Tensor:
    """Mean share of the target's top-k that the scores' top-k holds.

    scores, target: [batch, query, key] of queries that all see more than `budget` keys; −inf and 0
    hide a key.
    """
    wanted = target.topk(budget, dim=-1).indices
    picked = torch.zeros_like(target).scatter(-1, scores.topk(budget, dim=-1).indices, 1.0)
    return picked.gather(-1, wanted).mean()


@dataclass
class Tally:
    """What the layers of one forward pass leave behind: one loss and one recall each."""

    losses: list[Tensor] = field(default_factory=list)
    recalls: list[Tensor] = field(default_factory=list)

    def take(self) -> tuple[Tensor, Tensor]:
        """The mean over the layers of both, which are forgotten; call it once a forward pass."""
        means = torch.stack(self.losses).mean(), torch.stack(self.recalls).mean()
        self.losses.clear()
        self.recalls.clear()
        return means


Attend = Callable[[Operands, Tensor, Tensor, Tensor, float, Tally], Tensor]


@contextmanager
def watched(model: PreTrainedModel, attend: Attend) -> Iterator[Tally]:
    """Within the block every layer attends by `attend`, which is given its indexer's operands."""
    tally = Tally()
    ready: dict[int, Operands] = {}

    def index(indexer: nn.Module, hidden: Tensor, q_resid: Tensor, rope: Any) -> Tensor:
        ready[id(indexer)] = operands(indexer, hidden, q_resid, rope)
        return torch.zeros(1, 1, 1, dtype=torch.int32, device=hidden.device)

    def run(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
        scaling: float | None = None, **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        output = attend(ready.pop(id(module.indexer)), query, key, value, scale, tally)
        return output.transpose(1, 2).contiguous(), None

    named = named_attention(model, "indexer_lab_indexer", run)
    with replaced_indexers(require_indexers(model), index), named:
        yield tally


def head_mean(query: Tensor, key: Tensor, scale: float, hidden: Tensor) -> Tensor:
    """Attention averaged over heads, float32 [batch, query, key]: what an indexer learns from."""
    logits = (query.float() @ key.float().mT) * scale  # (batch, head, query, key)
    return logits.masked_fill(hidden, -torch.inf).softmax(-1).mean(1)


def dense_warmup(budget: int, stride: int) -> Attend:
    """Attention stays dense; the indexer learns its head-summed weights on every `stride`-th query.

    budget: keys at which the reported recall counts.
    """

    def attend(
        given: Operands, query: Tensor, key: Tensor, value: Tensor, scale: float, tally: Tally
    ) -> Tensor:
        length = query.shape[2]
        rows = torch.arange(stride - 1, length, stride, device=query.device)
        hidden = later_keys(rows, length)
        with torch.no_grad():
            output = dense_attention(query, key, value, scale)
            target = head_mean(query[:, :, rows], key, scale, hidden)
        scores = index_scores(given.rows(stride - 1, length, stride)._replace(keys=given.keys))
        scores = scores.masked_fill(hidden, -torch.inf)
        tally.losses.append(distillation(scores, target))
        late = rows >= min(budget, length - 1)
        tally.recalls.append(recall(scores.detach()[:, late], target[:, late], min(budget, length)))
        return output

    return attend


def own_selection(budget: int) -> Attend:
    """Attention over the `budget` keys that the indexer picks; it learns their weights' mean."""

    def attend(
        given: Operands, query: Tensor, key: Tensor, value: Tensor, scale: float, tally: Tally
    ) -> Tensor:
        length = query.shape[2]
        outputs, losses = [], []
        for start in range(0, length, CHUNK):
            end = min(start + CHUNK, length)
            part = given.rows(start, end)
            states = (query[:, :, start:end], key[:, :, :end], value[:, :, :end])
            output, loss = checkpoint(
                _selected_rows, *part, *states, scale, budget, use_reentrant=False
            )
            outputs.append(output)
            losses.append(loss * (end - start) / length)
        tally.losses.append(torch.stack(losses).sum())
        tally.recalls.append(_last_recall(given, query, key, scale, budget))
        return torch.cat(outputs, dim=2)

    return attend


def _selected_rows(
    queries: Tensor, keys: Tensor, weights: Tensor, query: Tensor, key: Tensor, value: Tensor,
    scale: float, budget: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output and loss of the last `query` rows of a causal sequence of `key` tokens."""
    count, visible = query.shape[2], key.shape[2]
    rows = torch.arange(visible - count, visible, device=query.device)
    scores = index_scores(Operands(queries, keys, weights))
    scores = scores.masked_fill(later_keys(rows, visible), -torch.inf)
    if budget < visible:
        picked = scores.detach().topk(budget, dim=-1).indices
        left_out = torch.ones_like(scores, dtype=torch.bool).scatter(-1, picked, False)
        scores = scores.masked_fill(left_out, -torch.inf)
    hidden = scores.detach().isneginf()
    logits = (query @ key.mT).float() * scale  # (batch, head, query, key)
    share = logits.masked_fill(hidden.unsqueeze(1), -torch.inf).softmax(-1)
    loss = distillation(scores, share.detach().mean(1))
    return share.to(value.dtype) @ value, loss


@torch.no_grad()
def _last_recall(given: Operands, query: Tensor, key: Tensor, scale: float, budget: int) -> Tensor:
    """Recall of the last queries, those that have the most keys to choose from."""
    length = query.shape[2]
    start = max(length - CHUNK // 4, min(budget, length - 1))
    rows = torch.arange(start, length, device=query.device)
    hidden = later_keys(rows, length)
    target = head_mean(query[:, :, start:], key, scale, hidden)
    scores = index_scores(given.rows(start, length)).masked_fill(hidden, -torch.inf)
    return recall(scores, target, min(budget, length))
