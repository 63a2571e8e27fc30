"""Takes an indexer's operands from its own multiplications, and proves how they make the scores.

Every DSA indexer in transformers computes one score product q [1, query, head, dim] x
k^T [1, 1, dim, unit], something elementwise, one product with the head weights, and one topk over
the finished scores. A TorchFunctionMode sees these calls with their real operands, so that RoPE
layout, norms and casts are the model's and nothing is derived a second time.

The same mode answers the products some rows at a time: the score product returns a tensor without
storage, the elementwise steps on it are noted, and the head product replays them on row chunks.
Each row is computed by the same calls on the same operands, and [query, head, unit] never exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from indexer_probes import units
from indexer_probes.attention import spread
from indexer_probes.errors import ProbeError
from indexer_probes.records import CHUNK_BYTES, IndexerRecord, Layout

MATMULS = {torch.matmul, Tensor.matmul, Tensor.__matmul__}
TOPKS = {torch.topk, Tensor.topk}
ELEMENTWISE = {"mul", "__mul__", "__rmul__", "mul_", "div", "__truediv__", "relu", "relu_", "float"}
QUESTIONS = {"__get__", "size", "dim", "is_floating_point"}  # about a tensor, not its values
PROOF_ROWS = 16
TOLERANCE = 1e-3  # of a row's largest score; covers another summing order and TF32


@dataclass(frozen=True)
class Operands:
    """What an indexer multiplied and chose.

    queries:  [1, query, index_head, dim], keys: [1, 1, dim, unit], weights: [1, query, 1, head].
    finished: [1, query, unit], the scores that topk saw, masked as the model masks them.
    selected: int64 [1, query, k], what topk returned.
    source:   the layer that they are from, where another one reuses them; indexer: its module.
    """

    queries: Tensor
    keys: Tensor
    weights: Tensor
    finished: Tensor
    selected: Tensor
    source: int | None = None
    indexer: nn.Module | None = None

    @property
    def units(self) -> int:
        return self.finished.shape[-1]

    def operands(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [index_head, row, dim], keys [unit, dim] and weights [row, index_head]."""
        return self.queries[0, rows].transpose(0, 1), self.keys[0, 0].mT, self.weights[0, rows, 0]

    def truth(self, rows: Tensor) -> Tensor:
        """[set, row, unit]: the finished scores."""
        return self.finished[:, rows]

    def chosen(self, rows: Tensor) -> Tensor:
        """int64 [set, row, k]"""
        return self.selected[:, rows].long()

    def of(self, sequence: int, units: int) -> Operands:
        """One sequence of a batch: its last `units` units, what came before was padding.

        Its units are ranked anew: among equal scores topk's choice depends on the padding.
        """
        if len(self.queries) == 1:
            return self
        pad = self.keys.shape[-1] - units
        finished = self.finished[sequence, None, ..., pad:]
        most = min(self.selected.shape[-1], units)
        return Operands(
            self.queries[sequence, None],
            self.keys[sequence, None, ..., pad:],
            self.weights[sequence, None],
            finished,
            finished.topk(most, dim=-1).indices,
        )


class Chosen(Protocol):
    """What an indexer multiplied and chose, whatever the form of its products.

    source: the layer that it is from, where another one reuses it; indexer: that layer's module.
    """

    @property
    def source(self) -> int | None: ...

    @property
    def indexer(self) -> nn.Module | None: ...

    @property
    def units(self) -> int: ...

    def operands(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def truth(self, rows: Tensor) -> Tensor: ...

    def chosen(self, rows: Tensor) -> Tensor: ...

    def of(self, sequence: int, units: int) -> Chosen: ...


class Watch(Protocol):
    """Entered around one forward of one indexer module; `operands` afterwards."""

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any: ...

    def operands(self) -> Chosen | None: ...


class PostponedScores:
    """Per-head scores that an indexer asked for and that are computed only row by row.

    stand_in: [1, query, head, unit] without storage; the indexer handles it in their place.
    """

    def __init__(self, queries: Tensor, keys: Tensor):
        self.queries = queries
        self.keys = keys
        shape = (*queries.shape[:-1], keys.shape[-1])
        self.stand_in = torch.empty(shape, dtype=queries.dtype, device="meta")
        self._steps: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def takes(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether a step on the scores is known to work on each row for itself."""
        others = [arg for arg in args if arg is not self.stand_in]
        spread_out = any(isinstance(other, Tensor) and other.ndim for other in others)
        return func.__name__ in ELEMENTWISE and not spread_out and len(others) < len(args)

    def note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Remembers one step, and takes it on the stand-in."""
        self._steps.append((func, args, kwargs))
        self.stand_in = func(*args, **kwargs)
        return self.stand_in

    def rows(self, rows: slice) -> Tensor:
        """[1, row, head, unit]: the scores of these rows, all noted steps taken."""
        scores = torch.matmul(self.queries[:, rows], self.keys)
        for func, args, kwargs in self._steps:
            real = [scores if isinstance(arg, Tensor) and arg.is_meta else arg for arg in args]
            scores = func(*real, **kwargs)
        return scores

    def chunks(self) -> Iterator[slice]:
        """Row slices whose scores stay under CHUNK_BYTES."""
        _, rows, heads, units = self.stand_in.shape
        step = max(1, CHUNK_BYTES // max(1, 4 * heads * units))
        for start in range(0, rows, step):
            yield slice(start, start + step)


class IndexerWatch(TorchFunctionMode):
    """Entered around one forward of one indexer module; `operands()` afterwards.

    Raises ProbeError, inside the forward, where the indexer does not follow the pattern above.
    """

    def __init__(self, layer: int):
        super().__init__()
        self.layer = layer
        self._scores: PostponedScores | None = None
        self._weights: Tensor | None = None
        self._choice: tuple[Tensor, Tensor] | None = None

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        scores = self._scores
        if scores is not None and any(arg is scores.stand_in for arg in (*args, *kwargs.values())):
            if func in MATMULS and args[1] is scores.stand_in:
                return self._weigh(args[0], scores)
            return self._postpone(scores, func, args, kwargs)
        if func in MATMULS and _is_score_product(*args):
            return self._multiply(*args)
        if func in TOPKS:
            return self._choose(func, args, kwargs)
        return func(*args, **kwargs)

    def operands(self) -> Operands:
        """Raises ProbeError when one of the three calls was never seen."""
        if self._scores is None:
            raise self._refuse("it made no product of queries and keys that looks like one")
        if self._weights is None:
            raise self._refuse("it made no product of head weights and scores")
        if self._choice is None:
            raise self._refuse("it called no topk over the finished scores")
        return Operands(self._scores.queries, self._scores.keys, self._weights, *self._choice)

    def _multiply(self, queries: Tensor, keys: Tensor) -> Tensor:
        if self._scores is not None:
            raise self._refuse("it multiplied queries and keys twice")
        self._scores = PostponedScores(queries.detach(), keys.detach())
        return self._scores.stand_in

    def _postpone(
        self, scores: PostponedScores, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if scores.takes(func, args):
            return scores.note(func, args, kwargs)
        if func.__name__ in QUESTIONS:
            return func(*args, **kwargs)
        raise self._refuse(
            f"between its two products it calls {func.__name__}, which is not known to work row "
            "by row"
        )

    def _weigh(self, weights: Tensor, scores: PostponedScores) -> Tensor:
        if self._weights is not None:
            raise self._refuse("it multiplied with head weights twice")
        self._weights = weights.detach()
        shape = (*weights.shape[:-1], scores.stand_in.shape[-1])
        finished = torch.empty(shape, dtype=scores.stand_in.dtype, device=weights.device)
        for rows in scores.chunks():
            finished[:, rows] = torch.matmul(weights[:, rows], scores.rows(rows))
        return finished

    def _choose(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._choice is not None:
            raise self._refuse("it called topk twice")
        result = func(*args, **kwargs)
        self._choice = args[0].detach(), result[1]
        return result

    def _refuse(self, reason: str) -> ProbeError:
        return ProbeError(f"layer {self.layer}: the indexer cannot be read: {reason}")


def index_record(
    operands: Chosen,
    indexer: nn.Module,
    rows: Tensor,
    positions: Tensor,
    layer: int,
    layout: Layout | None = None,
    spans: Tensor | None = None,
) -> IndexerRecord:
    """The record of these query rows, its scale and activation proved on the model's own scores.

    rows:      int64 [query], rows of this forward; positions: int64 [query], their tokens.
    layout, spans: what the indexer's units are; None for an indexer of tokens.
    Raises ProbeError on NaN, and when no known variant reproduces the finished scores.
    """
    dtype = next(indexer.parameters()).dtype
    queries, keys, weights = operands.operands(rows)
    record = IndexerRecord(
        queries=_compact(queries, dtype),
        keys=_compact(keys, dtype),
        weights=weights.float(),
        scale=1.0,
        native=operands.chosen(rows),
        spans=spans,
        units_of=layout,
        source=operands.source,
    )
    for name in ("queries", "keys", "weights"):
        if not bool(getattr(record, name).isfinite().all()):
            raise ProbeError(f"layer {layer}: the indexer's {name} hold NaN or infinity")
    visible = units.counts(record, positions)
    native = _native(record.native, visible)[..., : operands.units]
    return _settle(replace(record, native=native), indexer, operands, rows, positions, layer)


def _settle(
    record: IndexerRecord,
    indexer: nn.Module,
    operands: Chosen,
    rows: Tensor,
    positions: Tensor,
    layer: int,
) -> IndexerRecord:
    """The record in the first known variant whose scores equal the finished ones."""
    proof = spread(len(rows), PROOF_ROWS).to(rows.device)
    truth = operands.truth(rows[proof]).float()
    tried = []
    for variant in _variants(record, indexer):
        error = worst(units.ranked(variant, proof, positions[proof]), truth)
        if error <= TOLERANCE:
            return variant
        tried.append(f"scale {variant.scale:.4g} with {variant.activation} (off by {error:.1%})")
    raise ProbeError(
        f"layer {layer}: no known form of the index score gives the model's own scores; tried "
        + ", ".join(tried)
    )


def _variants(record: IndexerRecord, indexer: nn.Module) -> Iterator[IndexerRecord]:
    heads, _, dim = record.queries.shape
    scales = [getattr(indexer, "softmax_scale", None), 1.0, dim**-0.5]
    scales += [heads**-0.5, (heads * dim) ** -0.5]
    for activation in ("relu", "none"):
        for scale in dict.fromkeys(float(scale) for scale in scales if scale is not None):
            yield replace(record, scale=scale, activation=activation)


def worst(scores: Tensor, truth: Tensor) -> float:
    """Largest difference where the scores are finite, as a share of its row's largest true score;
    infinite where a forced unit is not forced in the truth."""
    if bool((truth[scores == float("inf")] < float("inf")).any()):
        return float("inf")
    counting = scores.isfinite()
    gap = (scores - truth).abs().masked_fill_(~counting, 0.0)
    size = truth.abs().masked_fill_(~counting, 0.0).amax(-1)
    return float((gap.amax(-1) / size.clamp(min=1e-30)).nan_to_num(nan=float("inf")).max())


def _native(selected: Tensor, visible: Tensor) -> Tensor:
    """The selection in the model's order, with what a query cannot see turned to -1 at the end.

    visible: int64 [query], how many of the first units each query sees.
    """
    hidden = (selected >= visible[:, None]) | (selected < 0)
    order = hidden.int().argsort(dim=-1, stable=True)
    return selected.masked_fill(hidden, -1).gather(-1, order)


def _compact(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """An own contiguous copy, in the model's dtype where the cast back loses nothing."""
    small = tensor.detach().to(dtype)
    exact = torch.equal(small.to(tensor.dtype), tensor)
    return (small if exact else tensor.detach()).clone(memory_format=torch.contiguous_format)


def _is_score_product(left: Tensor, right: Tensor) -> bool:
    return left.ndim == 4 and right.ndim == 4 and right.shape[1] == 1
