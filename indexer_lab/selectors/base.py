"""What a selector is: settings that fit a record, and a ranker that answers any budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from indexer_kernels.topk import KernelError, topk
from indexer_lab.errors import InputError
from indexer_probes.records import IndexerRecord, LayerRecord

Support = Tensor
"""int64 [set, query, budget]: key positions, -1 pads at the end; one set serves all heads, or one
set a query head."""


@dataclass(frozen=True)
class Cost:
    """What selecting costs for one query of one layer, all heads together.

    Both count a decode step that ranks every key of the record; a set that the query heads of one
    key head share is read once. nan where the cost cannot be known, as for a selection in a file.

    bytes_read:    bytes of keys, codes or tables.
    multiply_adds: multiply-adds, whatever their precision.
    """

    bytes_read: float
    multiply_adds: float


class Ranker(Protocol):
    """A selector fitted to one record."""

    def top(self, budget: int) -> Support:
        """The positions picked for every stored query at this budget (1 <= budget)."""
        ...

    def scores(self, rows: slice) -> Tensor | None:
        """float32 [set, row, key], the selector's own scores with hidden keys at -inf; None when
        the selector ranks without scoring every key."""
        ...


class Selector(Protocol):
    """Frozen settings. `fit` may read the whole record but never the exact answer's support.

    One with `ranks_units = True` asks a record for logits and its indexer alone, and so ranks units
    as it ranks tokens; the others need a key for each token.
    """

    def fit(self, record: LayerRecord) -> Ranker: ...

    def cost(self, record: LayerRecord, budget: int) -> Cost: ...


class ScoreRanker:
    """Ranks by a score of every key; ranks once at the largest budget asked so far.

    score: maps a slice of query rows to float32 [set, row, key].
    masked: whether `score` has hidden keys at -inf already.
    sets:  1 when all heads share the selection, else the number of query heads.
    width: [row, key] blocks that `score` holds at once, where that is more than one a query head;
           rows are taken in chunks that keep them within the record's chunk size.
    kernel: ranks at a budget without storing scores; its None leaves that budget to the scores.
    """

    def __init__(
        self,
        record: LayerRecord,
        score: Callable[[slice], Tensor],
        sets: int,
        width: int | None = None,
        kernel: Callable[[int], Support | None] | None = None,
        masked: bool = False,
    ):
        self.record = record
        self.masked = masked
        self.score = score
        self.sets = sets
        self.kernel = kernel
        self.width = max(record.heads, width or 0)
        self._ranked: Support | None = None

    def scores(self, rows: slice) -> Tensor:
        scores = self.score(rows)
        if self.masked:
            return scores
        return scores.masked_fill(~self.record.visible(rows), float("-inf"))

    def top(self, budget: int) -> Support:
        if self._ranked is None or self._ranked.shape[-1] < budget:
            self._ranked = self._rank(budget)
        return self._ranked[..., :budget]

    def _rank(self, budget: int) -> Support:
        chunks = self.record.chunks(self.width)
        try:
            picked = None if self.kernel is None else self.kernel(budget)
            if picked is not None:
                return picked
            return torch.cat([topk(self.scores(rows), budget)[1] for rows in chunks], dim=1)
        except KernelError as error:
            raise InputError(f"layer {self.record.layer}: {error}") from error


class BudgetRanker:
    """Ranks anew for each budget, once: what one budget picks need not begin a larger one's picks.

    pick:  rows and budget -> int64 [set, row, budget].
    width: [row, key] blocks that `pick` holds at once.
    """

    def __init__(self, record: LayerRecord, pick: Callable[[slice, int], Support], width: int):
        self.record = record
        self.pick = pick
        self.width = width
        self._known: dict[int, Support] = {}

    def scores(self, rows: slice) -> Tensor | None:
        return None

    def top(self, budget: int) -> Support:
        if budget not in self._known:
            chunks = self.record.chunks(self.width)
            try:
                self._known[budget] = torch.cat([self.pick(rows, budget) for rows in chunks], dim=1)
            except KernelError as error:
                raise InputError(f"layer {self.record.layer}: {error}") from error
        return self._known[budget]


def product_ranker(record: LayerRecord, queries: Tensor, keys: Tensor) -> ScoreRanker:
    """Ranks, each query head for itself, by the product of stand-ins for queries and keys.

    queries: [head, query, d], keys: [kv_head, key, d], of any d.
    """

    def score(rows: slice) -> Tensor:
        return record.products(queries, keys, rows) * record.scale

    return ScoreRanker(record, score, record.heads, width=2 * record.heads)


class NativeRanker:
    """Hands out a selection that already exists: its first `budget` places, in their order."""

    def __init__(self, support: Support):
        self.support = support

    def scores(self, rows: slice) -> None:
        return None

    def top(self, budget: int) -> Support:
        stored = self.support.shape[-1]
        if budget > stored:
            raise InputError(
                f"budget {budget} is over the {stored} positions that were recorded per query; "
                f"ask for at most {stored}"
            )
        return self.support[..., :budget]


def pad(support: Support, budget: int) -> Support:
    """The support with -1 pads up to `budget` places."""
    return torch.nn.functional.pad(support, (0, budget - support.shape[-1]), value=-1)


def every_key(record: LayerRecord) -> Support:
    """int64 [1, query, key]: the support of dense attention."""
    return torch.arange(record.length, device=record.queries.device).expand(1, record.rows, -1)


class NoIndexer(InputError):
    """A layer without an indexer, asked for its selection."""


def ranks_units(selector: object) -> bool:
    """Whether a selector can rank units that have no key of their own."""
    return bool(getattr(selector, "ranks_units", False))


def need_indexer(record: LayerRecord, selector: str) -> IndexerRecord:
    """The record's indexer. Raises NoIndexer when a selector wants index tensors that this layer of
    the capture does not hold."""
    if record.indexer is None:
        raise NoIndexer(
            f"selector {selector!r} needs indexer tensors, and layer {record.layer} of this "
            "capture has none: its model has no native indexer; choose a selector of the main "
            "queries and keys instead"
        )
    return record.indexer


def token_indexer(record: LayerRecord, selector: str) -> IndexerRecord:
    """The record's indexer, which must select tokens one by one. Raises InputError."""
    indexer = need_indexer(record, selector)
    if indexer.spans is not None:
        raise InputError(
            f"selector {selector!r} ranks tokens, and layer {record.layer}'s indexer selects "
            f"{indexer.units} units that span several of its {record.length} tokens"
        )
    return indexer


def index_cost(indexer: IndexerRecord, bits: int, scale_bits: int = 0) -> Cost:
    """Every index key read once, `bits` a value and `scale_bits` a key; a multiply-add for each
    index head, key and dimension, and one a head and key for its weight."""
    dim, heads = indexer.keys.shape[-1], indexer.queries.shape[0]
    keys = indexer.keys.shape[0]
    return Cost(
        bytes_read=keys * (dim * bits + scale_bits) / 8,
        multiply_adds=float(keys * heads * (dim + 1)),
    )


def bytes_per_key(record: LayerRecord) -> float:
    """Bytes that one token's keys take in this layer, all key heads together, as stored."""
    stored = record.keys
    per_key = sum(
        tensor.numel() * tensor.element_size() / record.length
        for name, tensor in vars(stored).items()
        if name in ("plain_keys", "latent", "rope")
    )
    return float(per_key)
