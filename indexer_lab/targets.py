"""What "exact" is measured on: a value for every visible key, whose top-k is the ground truth.

Write l[h, t, s] for the logits and p = softmax over the visible s. A target gives one value per
set, query row and key; one set a query head (`per_head`), one a key head (`kv_group`), or one for
all heads. Values are computed in chunks of query rows, so memory follows the chunk and not the
length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from indexer_kernels.topk import topk
from indexer_lab.backend import Backend, kernel_record, working_on
from indexer_lab.errors import unknown_name
from indexer_probes.records import LayerRecord

if TYPE_CHECKING:
    from indexer_lab.kernel_record import KernelRecord

HIDDEN = float("-inf")
Pick = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Values [..., key] and k -> the k largest values and their positions."""


def probabilities(logits: Tensor) -> Tensor:
    """softmax over keys, float32 like the logits; a row that sees no key is all zero.

    Attention sinks are left out: p says how the mass on keys is shared among keys.
    """
    return torch.softmax(logits, dim=-1).nan_to_num_(nan=0.0)


@dataclass(frozen=True)
class Target:
    """One definition of exact.

    name, meaning: as listed by `indexer-lab ls targets`.
    sets:   how many supports it asks for, from a record: query heads, key heads or 1.
    values: logits [head, row, key] and the record and budget -> float32 [set, row, key], hidden
            keys at -inf.
    by_budget: whether the values themselves change with the budget.
    kernel: a record for the kernels and k -> int64 [set, query, k], the top-k with no value stored;
            None where no kernel computes the values, which are then torch's on either backend.
    """

    name: str
    meaning: str
    sets: Callable[[LayerRecord], int]
    values: Callable[[Tensor, LayerRecord, int], Tensor]
    by_budget: bool = False
    kernel: Callable[[KernelRecord, int], Tensor] | None = None

    def chunk(self, record: LayerRecord, rows: slice, budget: int) -> Tensor:
        """float32 [set, row, key]: the values on these query rows."""
        return self.values(record.logits(rows), record, budget)

    def top(self, record: LayerRecord, budget: int, backend: Backend = "auto") -> Tensor:
        """int64 [set, query, budget]: the exact support, lowest position first among equals.

        Raises InputError for a forced backend that cannot run.
        """
        kernels = kernel_record(record, backend, budget)
        if kernels is None:
            return self._picked(record, budget, topk)
        with working_on(record.queries.device):  # a model may lie on another GPU than the first
            if self.kernel is not None:
                return self.kernel(kernels, budget)
            return self._picked(record, budget, kernels.pick)

    def _picked(self, record: LayerRecord, budget: int, pick: Pick) -> Tensor:
        """int64 [set, query, budget]: picked from the values, chunk by chunk."""
        parts = [pick(self.chunk(record, rows, budget), budget)[1] for rows in record.chunks()]
        return torch.cat(parts, dim=1)


def _per_head(logits: Tensor, record: LayerRecord, budget: int) -> Tensor:
    return logits


def _pooled(
    pool: Callable[[Tensor], Tensor], group: Callable[[LayerRecord], int]
) -> Callable[[Tensor, LayerRecord, int], Tensor]:
    """Values pooled over groups of query heads; `pool` takes [group, row, key] blocks in turn."""

    def values(logits: Tensor, record: LayerRecord, budget: int) -> Tensor:
        size = group(record)
        pooled = [pool(block) for block in probabilities(logits).split(size)]
        return torch.stack(pooled).masked_fill_(logits[:1] == HIDDEN, HIDDEN)

    return values


def _best_shared(logits: Tensor, record: LayerRecord, budget: int) -> Tensor:
    """How many heads hold the key in their own top-k; equal counts by the head-averaged p."""
    picked = topk(logits, budget)[1]
    votes = torch.zeros(logits.shape[1:], dtype=torch.float32, device=logits.device)
    for head in picked:
        votes.scatter_add_(1, head.clamp(min=0), (head >= 0).float())
    order = votes + probabilities(logits).mean(0) / 2  # p < 1: never overrules a vote
    return order.masked_fill_(logits[0] == HIDDEN, HIDDEN)[None]


def _one(record: LayerRecord) -> int:
    return 1


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "per_head",
            "top-k of each query head's own logits, one set a head",
            lambda record: record.heads,
            _per_head,
            kernel=lambda kernels, k: kernels.top(k),
        ),
        Target(
            "head_sum",
            "top-k of the head-averaged probability: what DeepSeek's indexer is distilled to",
            _one,
            _pooled(lambda block: block.mean(0), lambda record: record.heads),
            kernel=lambda kernels, k: kernels.mean_top(k, kernels.record.heads),
        ),
        Target(
            "kv_group",
            "top-k of the probability averaged over the query heads of one key head",
            lambda record: record.keys.heads,
            _pooled(lambda block: block.mean(0), lambda record: record.group),
            kernel=lambda kernels, k: kernels.mean_top(k, kernels.record.group),
        ),
        Target(
            "head_max",
            "top-k of the largest probability that any head gives",
            _one,
            _pooled(lambda block: block.amax(0), lambda record: record.heads),
        ),
        Target(
            "best_shared",
            "the keys in most heads' own top-k: the ceiling of one shared set on per_head",
            _one,
            _best_shared,
            by_budget=True,
        ),
    )
}


def target(name: str) -> Target:
    """The target of this name. Raises InputError with the nearest valid one."""
    if name not in TARGETS:
        raise unknown_name("target", name, TARGETS)
    return TARGETS[name]


def default_target(record: LayerRecord) -> str:
    """`head_sum` where one indexer serves all heads, `kv_group` where each key head has its own
    selection, else `per_head`."""
    if record.indexer is None:
        return "per_head"
    return "head_sum" if record.indexer.sets == 1 else "kv_group"
