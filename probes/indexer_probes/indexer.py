"""Takes an indexer's operands from its own multiplications, and proves how they make the scores.

Every DSA indexer in transformers computes one score product q [1, query, head, dim] x
k^T [1, 1, dim, unit], something elementwise, one product with the head weights, and one topk over
the finished scores. A TorchFunctionMode sees these calls with their real operands, so that RoPE
layout, norms and casts are the model's and nothing is derived a second time.

The same mode answers the products some rows at a time (postponed.py): neither [query, head, unit]
nor [query, unit] ever exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from indexer_probes import units
from indexer_probes.attention import spread
from indexer_probes.errors import ProbeError
from indexer_probes.postponed import FinishedScores, PostponedScores
from indexer_probes.records import IndexerRecord, Layout

MATMULS = {torch.matmul, Tensor.matmul, Tensor.__matmul__}
TOPKS = {torch.topk, Tensor.topk}
QUESTIONS = {"__get__", "size", "dim", "is_floating_point"}  # about a tensor, not its values
DEVICE = Tensor.device.__get__
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
    finished: FinishedScores | Tensor
    selected: Tensor
    source: int | None = None
    indexer: nn.Module | None = None

    @property
    def units(self) -> int:
        return self.keys.shape[-1]

    def operands(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [index_head, row, dim], keys [unit, dim] and weights [row, index_head]."""
        return self.queries[0, rows].transpose(0, 1), self.keys[0, 0].mT, self.weights[0, rows, 0]

    def truth(self, rows: Tensor) -> Tensor:
        """[set, row, unit]: the finished scores."""
        whole = self.finished
        return whole[:, rows] if isinstance(whole, Tensor) else whole.rows(rows)

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
        whole = self.finished if isinstance(self.finished, Tensor) else self.finished.whole()
        finished = whole[sequence, None, ..., pad:]
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


class Picks(Protocol):
    """Answers an indexer's topk: see picking.py."""

    def pick(self, finished: FinishedScores, k: int) -> tuple[Tensor, Tensor]: ...


class Watch(Protocol):
    """Entered around one forward of one indexer module; `operands` afterwards."""

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any: ...

    def operands(self) -> Chosen | None: ...


class IndexerWatch(TorchFunctionMode):
    """Entered around one forward of one indexer module; `operands()` afterwards.

    picker: answers the topk in the indexer's place; None leaves that to the indexer's own calls.
    Raises ProbeError, inside the forward, where the indexer does not follow the pattern above.
    """

    picker: Picks | None = None

    def __init__(self, layer: int):
        super().__init__()
        self.layer = layer
        self._scores: PostponedScores | None = None
        self._finished: FinishedScores | None = None
        self._weights: Tensor | None = None
        self._choice: tuple[FinishedScores | Tensor, Tensor] | None = None

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        scores, finished = self._scores, self._finished
        if scores is not None and scores.stands_in(args, kwargs):
            if func in MATMULS and args[1] is scores.stand_in:
                return self._weigh(args[0], scores)
            return self._postpone(scores, func, args, kwargs)
        if finished is not None and finished.stands_in(args, kwargs):
            if func in TOPKS:
                return self._choose(func, args, kwargs)
            return self._finish(finished, func, args, kwargs)
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
            return self._told(scores, func, args, kwargs)
        raise self._refuse(
            f"between its two products it calls {func.__name__}, which is not known to work row "
            "by row"
        )

    def _told(
        self, scores: PostponedScores, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A question about a stand-in, answered as the scores themselves would."""
        return scores.queries.device if func == DEVICE else func(*args, **kwargs)

    def _weigh(self, weights: Tensor, scores: PostponedScores) -> Tensor:
        if self._weights is not None:
            raise self._refuse("it multiplied with head weights twice")
        self._weights = weights.detach()
        self._finished = FinishedScores(scores, self._weights)
        return self._finished.stand_in

    def _finish(
        self, finished: FinishedScores, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A step between the product with the head weights and topk."""
        if finished.takes(func, args, kwargs):
            return finished.note(func, args, kwargs)
        if func.__name__ in QUESTIONS:
            return self._told(finished.scores, func, args, kwargs)
        whole = finished.whole()  # an unknown step gets what it asks for
        return func(*[whole if arg is finished.stand_in else arg for arg in args], **kwargs)

    def _choose(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._choice is not None:
            raise self._refuse("it called topk twice")
        finished = self._finished
        if finished is None or args[0] is not finished.stand_in:
            result = func(*args, **kwargs)
            self._choice = args[0].detach(), result[1]
            return result
        values, indices = self._picked(finished, func, args, kwargs)
        self._choice = finished, indices
        return torch.return_types.topk((values, indices))

    def _picked(
        self, finished: FinishedScores, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """[1, query, k] values and indices of a topk along the units, by picker or by blocks."""
        of_units = kwargs.get("dim", args[2] if len(args) > 2 else -1) in (-1, 2)
        if not of_units:
            raise self._refuse("it calls topk along another axis than its units")
        plain = len(args) < 4 and not kwargs.keys() - {"k", "dim"}
        if self.picker is not None and plain:
            return self.picker.pick(finished, args[1] if len(args) > 1 else kwargs["k"])
        parts = [func(finished.rows(rows), *args[1:], **kwargs) for rows in finished.blocks()]
        if len(parts) == 1:
            return parts[0][0], parts[0][1]
        return torch.cat([part[0] for part in parts], 1), torch.cat([part[1] for part in parts], 1)

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
        queries=compact(queries, dtype),
        keys=compact(keys, dtype),
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
    proof = spread(len(rows), PROOF_ROWS).to(rows.device)
    truth = operands.truth(rows[proof]).float()
    return proved(
        replace(record, native=native),
        indexer,
        layer,
        lambda variant: worst(units.ranked(variant, proof, positions[proof]), truth),
    )


def proved(
    record: IndexerRecord, indexer: nn.Module, layer: int, off: Callable[[IndexerRecord], float]
) -> IndexerRecord:
    """The record in the first known variant that is `off` the model's own scores by next to
    nothing. Raises ProbeError, naming what was tried, when there is none."""
    tried = []
    for variant in _variants(record, indexer):
        error = off(variant)
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
    if not bool((hidden[..., :-1] & ~hidden[..., 1:]).any()):  # they are at the end, as -inf is
        return selected.masked_fill(hidden, -1)
    order = hidden.int().argsort(dim=-1, stable=True)
    return selected.masked_fill(hidden, -1).gather(-1, order)


def compact(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """An own contiguous copy, in the model's dtype where the cast back loses nothing."""
    small = tensor.detach().to(dtype)
    exact = torch.equal(small.to(tensor.dtype), tensor)
    return (small if exact else tensor.detach()).clone(memory_format=torch.contiguous_format)


def _is_score_product(left: Tensor, right: Tensor) -> bool:
    return left.ndim == 4 and right.ndim == 4 and right.shape[1] == 1
