"""Units as the tokens that they span: how a selection of units spends a budget of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Ranker, Support
from indexer_lab.unit_level import unit_size
from indexer_probes import units
from indexer_probes.records import LayerRecord


class Expanded:
    """A ranker of units as one of tokens.

    First come the tokens that the layer attends to in any case, the latest first; then whole units
    in their order, each in the order of its tokens, while the next one fits. What is left of the
    budget stays empty: a part of a unit is nothing that such an indexer can select.

    limit: units that the ranker can name for a query; None for any number.
    """

    def __init__(self, ranker: Ranker, record: LayerRecord, limit: int | None = None):
        self.ranker = ranker
        self.record = record
        self.limit = limit

    def scores(self, rows: slice) -> None:
        """None: a unit's score is no score of its tokens; the rows of level `unit` have them."""
        return None

    def top(self, budget: int) -> Support:
        chosen = self._units(budget)
        chunks = self.record.chunks(max(self.record.heads, 4 * len(chosen)))
        return torch.cat([self._rows(chosen[:, rows], rows, budget) for rows in chunks], dim=1)

    def _units(self, budget: int) -> Tensor:
        """int64 [set, query, k]: at least as many units as the budget has room for."""
        indexer = self.record.indexer
        assert indexer is not None
        size = unit_size(self.record)
        wanted = min(-(-budget // size), indexer.units)
        if self.limit is None:
            return self.ranker.top(wanted)
        most = self.limit * size + _always_at_most(self.record, size)
        if budget > most:
            raise InputError(
                f"budget {budget} is over the {most} tokens that were recorded per query, "
                f"{self.limit} units of {size} and what is attended to in any case; ask for at "
                f"most {most}"
            )
        return self.ranker.top(min(wanted, self.limit))

    def _rows(self, chosen: Tensor, rows: slice, budget: int) -> Support:
        """int64 [set, row, budget] of these rows."""
        sets, count, places = chosen.shape
        length = self.record.length
        rank = _ranks(self.record, rows, chosen)  # (set, row, token), 0 always, 1 the first unit's
        taken = torch.zeros(sets, count, places + 2, device=rank.device, dtype=torch.int64)
        taken.scatter_add_(-1, rank, torch.ones_like(rank))
        fits = taken[..., :-1].cumsum(-1) <= budget
        fits = torch.nn.functional.pad(fits, (0, 1), value=False)
        fits[..., 0] = True  # what is attended to in any case is cut, not left out
        kept = fits.gather(-1, rank)
        token = torch.arange(length, device=rank.device)
        order = torch.where(rank == 0, length - token, rank * length + token)
        order = order.masked_fill(~kept, length * (places + 3))
        best = order.argsort(dim=-1)[..., :budget]
        support = best.masked_fill(~kept.gather(-1, best), -1)
        return torch.nn.functional.pad(support, (0, budget - support.shape[-1]), value=-1)


def _always_at_most(record: LayerRecord, size: int) -> int:
    indexer = record.indexer
    assert indexer is not None
    if record.entries is not None:
        return record.mask.window or 0
    return size - 1 if indexer.units_of is not None and indexer.units_of.tail else 0


def _ranks(record: LayerRecord, rows: slice, chosen: Tensor) -> Tensor:
    """int64 [set, row, token]: 0 for tokens attended to in any case, n for those of the n-th unit,
    one more than there are places for the rest."""
    indexer, length = record.indexer, record.length
    assert indexer is not None
    assert indexer.spans is not None
    sets, count, places = chosen.shape
    tokens = units.members(indexer.spans)[chosen.clamp(min=0)]  # (set, row, place, width)
    tokens = tokens.masked_fill((tokens < 0) | (chosen < 0)[..., None], length).flatten(-2)
    place = torch.arange(1, places + 1, device=chosen.device).repeat_interleave(
        tokens.shape[-1] // max(places, 1)
    )
    rank = torch.full((sets, count, length + 1), places + 1, device=chosen.device)
    rank.scatter_reduce_(-1, tokens, place.expand_as(tokens), reduce="amin")
    rank = rank[..., :length].masked_fill(~record.visible(rows), places + 1)
    return rank.masked_fill(always(record, rows), 0)


def always(record: LayerRecord, rows: slice) -> Tensor:
    """bool [row, token]: what these queries attend to whatever their indexer selects."""
    assert record.indexer is not None
    positions = record.positions[rows]
    if record.entries is not None:
        return record.mask.visible(positions, record.length)
    return units.tails(record.indexer, positions, record.length)
