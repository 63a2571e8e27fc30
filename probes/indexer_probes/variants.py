"""Indexers that multiply in other ways than DeepSeek-V3.2's: still read off their own products.

What a watch takes is never believed: `prove` in indexer.py holds the scores that follow from it
against those that the model ranked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from indexer_probes.errors import ProbeError
from indexer_probes.indexer import MATMULS, TOPKS, IndexerWatch, Operands, PostponedScores

PRODUCTS = {"mul", "__mul__", "__rmul__"}


class SumWatch(IndexerWatch):
    """Knows the weighted sum over heads as a matrix product, and as a product and a sum."""

    def __init__(self, layer: int):
        super().__init__(layer)
        self._factors: Tensor | None = None

    def _postpone(
        self, scores: PostponedScores, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._factors is not None:
            if func is Tensor.sum:
                return self._sum(scores, *args[1:], **kwargs)
            raise self._refuse(f"it calls {func.__name__} on weighted scores before it sums them")
        if func.__name__ in PRODUCTS and len(args) == 2:
            others = [arg for arg in args if arg is not scores.stand_in]
            wanted = (*scores.stand_in.shape[:-1], 1)
            if isinstance(others[0], Tensor) and others[0].shape == wanted:
                self._factors = others[0].detach()
                return scores.stand_in
        return super()._postpone(scores, func, args, kwargs)

    def _sum(self, scores: PostponedScores, dim: int, keepdim: bool = False) -> Tensor:
        if dim not in (2, -2) or keepdim:
            raise self._refuse(f"it sums its weighted scores over axis {dim}, not over the heads")
        factors = self._factors
        assert factors is not None
        self._weights = factors.mT  # [1, query, 1, head], as a matrix product has them
        queries, _, units = (scores.stand_in.shape[axis] for axis in (1, 2, 3))
        finished = torch.empty(1, queries, units, dtype=factors.dtype, device=factors.device)
        for rows in scores.chunks():
            finished[:, rows] = (scores.rows(rows) * factors[:, rows]).sum(2)
        return finished


@dataclass(frozen=True)
class BlockOperands:
    """What an indexer multiplied that lets every head select by its best keys.

    queries:  [1, index_head, query, dim], keys: [1, 1, key, dim].
    finished: [1, index_head, query, unit], selected: int64 [1, index_head, query, k].
    """

    queries: Tensor
    keys: Tensor
    finished: Tensor
    selected: Tensor
    source: int | None = None
    indexer: nn.Module | None = None

    def of(self, sequence: int, units: int) -> BlockOperands:
        return self

    @property
    def units(self) -> int:
        return self.finished.shape[-1]

    def operands(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [index_head, row, dim], keys [key, dim] and weights [row, index_head]."""
        heads = self.queries.shape[1]
        ones = torch.ones(len(rows), heads, device=self.queries.device)
        return self.queries[0][:, rows], self.keys[0, 0], ones

    def truth(self, rows: Tensor) -> Tensor:
        """[set, row, unit]: the finished scores."""
        return self.finished[0][:, rows]

    def chosen(self, rows: Tensor) -> Tensor:
        """int64 [set, row, k]"""
        return self.selected[0][:, rows].long()


class BlockWatch(TorchFunctionMode):
    """Lets the indexer compute, and keeps its score product and its topk."""

    def __init__(self, layer: int):
        super().__init__()
        self.layer = layer
        self._product: tuple[Tensor, Tensor] | None = None
        self._choice: tuple[Tensor, Tensor] | None = None

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in MATMULS and args[0].ndim == 4 and args[1].ndim == 4:
            if self._product is not None:
                raise self._refuse("it multiplied queries and keys twice")
            self._product = args[0].detach(), args[1].detach().mT
        if func in TOPKS:
            if self._choice is not None:
                raise self._refuse("it called topk twice")
            self._choice = args[0].detach(), result[1]
        return result

    def operands(self) -> BlockOperands:
        """Raises ProbeError when one of the calls was never seen."""
        if self._product is None or self._choice is None:
            raise self._refuse("it made no product of queries and keys, or no topk, of its own")
        return BlockOperands(*self._product, *self._choice)

    def _refuse(self, reason: str) -> ProbeError:
        return ProbeError(f"layer {self.layer}: the indexer cannot be read: {reason}")


class QueryWatch(TorchFunctionMode):
    """An indexer that goes query by query over the units that each one sees.

    It multiplies [index_head, dim] x [dim, unit] for every query that sees a unit, and each query's
    units are the first ones of the next query's.
    """

    def __init__(self, layer: int):
        super().__init__()
        self.layer = layer
        self._rows = 0
        self._products: list[tuple[Tensor, Tensor]] = []
        self._choices: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in MATMULS and args[0].ndim == 2 and args[1].ndim == 2:
            self._products.append((args[0].detach(), args[1].detach().mT))
        if func in TOPKS:
            self._choices.append((args[0].detach(), result[1]))
        if func is torch.full:  # the answer's empty places: [1, query, k]
            self._rows = result.shape[1]
        return result

    def operands(self) -> Operands | None:
        """As the weighted sum of heads that it is; None when no query sees a unit. Raises
        ProbeError when the calls do not fit together."""
        if not self._products:
            return None
        if len(self._products) != len(self._choices) or self._rows < len(self._products):
            raise ProbeError(
                f"layer {self.layer}: the indexer cannot be read: {len(self._products)} products "
                f"and {len(self._choices)} topk for {self._rows} queries"
            )
        keys = self._products[-1][1]  # (unit, dim), the last query's, which sees the most
        if not all(torch.equal(part, keys[: len(part)]) for _, part in self._products[::16]):
            raise ProbeError(
                f"layer {self.layer}: the indexer cannot be read: its queries see different units"
            )
        return self._gather(keys)

    def _gather(self, keys: Tensor) -> Operands:
        blind = self._rows - len(self._products)  # the first queries, which see no whole unit
        queries = torch.stack([query for query, _ in self._products])  # (query, head, dim)
        _, heads, dim = queries.shape
        places = max(choice.shape[0] for _, choice in self._choices)
        finished = queries.new_full((self._rows, len(keys)), float("-inf"))
        selected = torch.full((self._rows, places), -1, device=keys.device)
        for row, (scores, choice) in enumerate(self._choices, start=blind):
            finished[row, : len(scores)] = scores
            selected[row, : len(choice)] = choice
        queries = torch.cat([queries.new_zeros(blind, heads, dim), queries])
        weights = queries.new_full((1, self._rows, 1, heads), dim**-0.5)
        return Operands(queries[None], keys.mT[None, None], weights, finished[None], selected[None])
