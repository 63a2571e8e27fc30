"""The kept rows of a layer that runs in chunks, gathered for one record."""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_probes.attention import spread
from indexer_probes.families.base import AttentionCall
from indexer_probes.indexer import PROOF_ROWS, Operands


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

    def add(self, call: AttentionCall, first: int, operands: Operands | None) -> None:
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
        """[head, query, dim]"""
        return torch.cat(self._queries, dim=1)

    def indexed(self) -> IndexedRows | None:
        """What the indexer multiplied and chose on the kept rows; None in a dense layer."""
        return (
            IndexedRows(self._index, self._keys, self._chosen, self._truth) if self._index else None
        )


class IndexedRows:
    """The kept rows' operands, as `index_record` asks for them; `truth` of its proof rows alone."""

    def __init__(
        self,
        index: list[tuple[Tensor, Tensor]],
        keys: Tensor,
        chosen: list[Tensor],
        truth: list[Tensor],
    ):
        self.units = len(keys)
        self._operands = (
            torch.cat([queries for queries, _ in index], dim=1),
            keys,
            torch.cat([weights for _, weights in index]),
        )
        self._chosen = _widened(chosen, max(part.shape[-1] for part in chosen), -1)
        self._truth = _widened(truth, self.units, float("-inf"))

    def operands(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [index_head, row, dim], keys [unit, dim] and weights [row, index_head]."""
        queries, keys, weights = self._operands
        return queries[:, rows], keys, weights[rows]

    def truth(self, rows: Tensor) -> Tensor:
        """[set, row, unit]: the finished scores of the proof rows, in order."""
        assert len(rows) == self._truth.shape[1]
        return self._truth

    def chosen(self, rows: Tensor) -> Tensor:
        """int64 [set, row, k]"""
        return self._chosen[:, rows]


def _widened(parts: list[Tensor], width: int, fill: float) -> Tensor:
    """The parts [1, row, .] one after another, each filled up to one width."""
    pads = [(0, width - part.shape[-1]) for part in parts]
    filled = [
        torch.nn.functional.pad(part, pad, value=fill)
        for part, pad in zip(parts, pads, strict=True)
    ]
    return torch.cat(filled, dim=1)
