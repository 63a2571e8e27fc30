"""The kept rows of a layer that runs in chunks, gathered for one record."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from indexer_probes.attention import spread
from indexer_probes.families.base import AttentionCall
from indexer_probes.indexer import PROOF_ROWS, Chosen


class Parts:
    """What one probe keeps of one layer on one prompt.

    positions: int64 [query] on the CPU, all kept positions, increasing.
    """

    def __init__(self, positions: Tensor):
        self.positions = positions
        self._proof = set(spread(len(positions), PROOF_ROWS).tolist())
        self._queries: list[Tensor] = []
        self._index: list[tuple[Tensor, Tensor]] = []
        self._chosen: list[Tensor] = []
        self._truth: list[Tensor] = []
        self._keys = torch.empty(0, 0)

    def add(self, call: AttentionCall, first: int, operands: Chosen | None) -> None:
        """A chunk's kept rows. first: the position of its first query."""
        edges = torch.tensor([first, first + call.rows])
        begin, end = torch.searchsorted(self.positions, edges).tolist()
        if begin == end:
            return
        wanted, device = self.positions[begin:end] - first, call.queries.device
        rows = wanted.to(device, non_blocking=True)
        self._queries.append(call.queries[0].detach()[:, rows])
        if operands is not None:
            queries, self._keys, weights = operands.operands(rows)
            self._index.append((queries, weights))
            self._chosen.append(operands.chosen(rows))
            proof = [row - begin for row in range(begin, end) if row in self._proof]
            if proof:
                self._truth.append(operands.truth(wanted[proof].to(device, non_blocking=True)))

    def queries(self) -> Tensor:
        """[head, query, dim]; the parts are let go of."""
        return _joined(self._queries, dim=1)

    def indexed(self) -> IndexedRows | None:
        """What the indexer multiplied and chose on the kept rows, None in a dense layer; the parts
        are let go of."""
        if not self._index:
            return None
        queries, weights = ([pair[which] for pair in self._index] for which in (0, 1))
        self._index.clear()
        places = max(part.shape[-1] for part in self._chosen)
        return IndexedRows(
            (_joined(queries, dim=1), self._keys, _joined(weights, dim=0)),
            _joined(_widened(self._chosen, places, -1), dim=1),
            _joined(_widened(self._truth, len(self._keys), float("-inf")), dim=1),
        )


class IndexedRows:
    """All kept rows at once, as `index_record` asks for them; the truth of its proof rows alone."""

    source: int | None = None
    indexer: nn.Module | None = None

    def __init__(self, operands: tuple[Tensor, Tensor, Tensor], chosen: Tensor, truth: Tensor):
        self.units = len(operands[1])
        self._operands = operands
        self._chosen = chosen
        self._truth = truth

    def operands(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [index_head, row, dim], keys [unit, dim] and weights [row, index_head]."""
        assert len(rows) == len(self._operands[2])
        return self._operands

    def of(self, sequence: int, units: int) -> IndexedRows:
        """Itself: only one sequence goes through a layer in chunks."""
        return self

    def truth(self, rows: Tensor) -> Tensor:
        """[set, row, unit]: the finished scores of the proof rows, in order."""
        assert len(rows) == self._truth.shape[1]
        return self._truth

    def chosen(self, rows: Tensor) -> Tensor:
        """int64 [set, row, k]"""
        return self._chosen


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    whole = torch.cat(parts, dim=dim)
    parts.clear()
    return whole


def _widened(parts: list[Tensor], width: int, fill: float) -> list[Tensor]:
    """The parts [1, row, .], each filled up to one width; the list is let go of."""
    filled = []
    while parts:
        part = parts.pop(0)
        missing = width - part.shape[-1]
        pad = torch.nn.functional.pad
        filled.append(pad(part, (0, missing), value=fill) if missing else part)
    return filled
