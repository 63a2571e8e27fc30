"""Index scores that a model asked for and that are computed only some rows at a time.

The model handles a tensor without storage in their place; the steps that it takes on it are noted
and replayed on blocks of rows. Each row is computed by the same calls on the same operands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from indexer_probes.records import CUDA_CHUNK_BYTES

CHUNK_BYTES = 1 << 20  # a float32 [row, head, unit] block on a CPU: what stays in a core's cache
ELEMENTWISE = {"mul", "__mul__", "__rmul__", "mul_", "div", "__truediv__", "relu", "relu_", "float"}
FINISHING = ELEMENTWISE | {"masked_fill", "masked_fill_", "add", "add_", "__add__", "__radd__"}
Rows = slice | Tensor


class Steps:
    """A tensor without storage, and the steps noted on it. stand_in: what the model handles."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype):
        self.stand_in = torch.empty(shape, dtype=dtype, device="meta")
        self._steps: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def stands_in(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return any(arg is self.stand_in for arg in (*args, *kwargs.values()))

    def note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Remembers one step; what the model handles from now on in the scores' place."""
        self._steps.append((func, args, kwargs))
        if not func.__name__.endswith("_") or func.__name__.startswith("__"):
            self.stand_in = self._after(func.__name__, args)
        return self.stand_in

    def _after(self, name: str, args: tuple[Any, ...]) -> Tensor:
        """The stand-in after a step that `takes` let through: torch would find its shape and dtype
        by a long way in Python, and an indexer takes such steps for every chunk."""
        shape, dtype = list(self.stand_in.shape), self.stand_in.dtype
        if name == "squeeze":
            del shape[-2]
        for arg in args:
            if isinstance(arg, Tensor) and arg.ndim and arg.dtype != torch.bool:
                dtype = torch.promote_types(dtype, arg.dtype)
        dtype = torch.float32 if name == "float" else dtype
        return torch.empty(shape, dtype=dtype, device="meta")

    def _taken(self, scores: Tensor, rows: Rows) -> Tensor:
        """Some rows of scores after all noted steps."""
        for func, args, kwargs in self._steps:
            real = [scores if _is_stand_in(arg) else _of_rows(arg, rows) for arg in args]
            scores = func(*real, **kwargs)
        return scores


class PostponedScores(Steps):
    """Per-head scores. stand_in: [1, query, head, unit]"""

    def __init__(self, queries: Tensor, keys: Tensor):
        super().__init__((*queries.shape[:-1], keys.shape[-1]), queries.dtype)
        self.queries = queries
        self.keys = keys

    def takes(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether a step on the scores is known to work on each row for itself."""
        others = [arg for arg in args if arg is not self.stand_in]
        spread_out = any(isinstance(other, Tensor) and other.ndim for other in others)
        return func.__name__ in ELEMENTWISE and not spread_out and len(others) < len(args)

    def rows(self, rows: Rows) -> Tensor:
        """[1, row, head, unit]: the scores of these rows, all noted steps taken.

        Rows and heads are one axis of the product, which is many times faster than a product a row
        and adds up in the same order.
        """
        queries = self.queries[:, rows]
        product = torch.matmul(queries.flatten(1, 2), self.keys[:, 0])
        return self._taken(product.view(*queries.shape[:-1], -1), rows)


class FinishedScores(Steps):
    """Scores summed over heads and masked, as topk sees them. stand_in: [1, query, 1, unit], and
    [1, query, unit] once the model has dropped the axis of the sum."""

    def __init__(self, scores: PostponedScores, weights: Tensor):
        shape = (*weights.shape[:-1], scores.stand_in.shape[-1])
        super().__init__(shape, scores.stand_in.dtype)
        self.scores = scores
        self.weights = weights

    def takes(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a step is known to work on each row for itself."""
        if func.__name__ == "squeeze":
            return self.stand_in.ndim == 4 and args[1:] in ((-2,), (2,)) and not kwargs
        others = [arg for arg in args if isinstance(arg, Tensor) and arg is not self.stand_in]
        shapes = [other.shape for other in others if other.ndim]
        fits = all(_spreads(shape, self.stand_in.shape) for shape in shapes)
        return func.__name__ in FINISHING and not kwargs and self.stand_in.ndim == 3 and fits

    def rows(self, rows: Rows) -> Tensor:
        """[1, row, unit]: these rows, all noted steps taken."""
        return self._taken(self._summed(rows), rows)

    def _summed(self, rows: Rows) -> Tensor:
        return torch.matmul(self.weights[:, rows], self.scores.rows(rows))

    def whole(self) -> Tensor:
        """Every row at once."""
        return torch.cat([self.rows(rows) for rows in self.blocks()], dim=1)

    def blocks(self) -> Iterator[slice]:
        """Row slices whose per-head scores stay under CHUNK_BYTES, or CUDA_CHUNK_BYTES."""
        batch, rows, heads, units = *self.scores.queries.shape[:3], self.stand_in.shape[-1]
        room = CUDA_CHUNK_BYTES if self.weights.is_cuda else CHUNK_BYTES
        step = max(1, room // max(1, 4 * batch * heads * units))
        for start in range(0, rows, step):
            yield slice(start, min(start + step, rows))


class SummedScores(FinishedScores):
    """The same sum made as a product with the weights and a sum. stand_in: [1, query, unit]

    factors: [1, query, head, 1]
    """

    def __init__(self, scores: PostponedScores, factors: Tensor):
        super().__init__(scores, factors.mT)
        self.stand_in = self.stand_in[:, :, 0]
        self._factors = factors

    def _summed(self, rows: Rows) -> Tensor:
        return (self.scores.rows(rows) * self._factors[:, rows]).sum(2)


def _spreads(shape: torch.Size, over: torch.Size) -> bool:
    """Whether an operand of this shape spreads over all of it without adding an axis."""
    try:
        return torch.broadcast_shapes(shape, over) == over
    except RuntimeError:
        return False


def _of_rows(arg: Any, rows: Rows) -> Any:
    """An operand's part for these rows; what is the same for all rows stays whole."""
    if not isinstance(arg, Tensor) or arg.ndim < 2 or arg.shape[-2] == 1:
        return arg
    return arg[..., rows, :]


def _is_stand_in(arg: Any) -> bool:
    return isinstance(arg, Tensor) and arg.is_meta
