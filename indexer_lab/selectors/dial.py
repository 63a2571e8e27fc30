"""An exact top-k made wrong on purpose: its precision is set, so that its price can be measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from indexer_kernels.topk import topk
from indexer_lab.selectors.base import BudgetRanker, Cost, Ranker, Support
from indexer_lab.selectors.exact import Exact
from indexer_lab.selectors.random import lots
from indexer_lab.targets import Target, target
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Dial:
    """The exact top-k of a target with its precision set, to measure what precision is worth.

    A row that sees v keys has n = min(budget, v) places. It keeps m = floor(precision * n + 1/2) of
    its n exact keys and fills the other n - m places with keys outside the exact n; where v - n is
    fewer than that, it keeps as many exact keys more. So a row that sees no more than the budget
    holds every key, and every other row's precision is within 1 / (2n) of the one that was set
    unless it lacks wrong keys.

    precision: share of the exact keys that stays, 0 to 1.
    fill:   next    the keys that rank right after the exact ones: the mildest mistake there is.
            random  visible keys outside the exact ones, drawn uniformly.
    keep:   best    the exact keys that rank first; the weakest are lost.
            uniform a uniform draw of the exact keys; the strongest may be lost too.
    target: whose top-k is exact, see `ls targets`.
    seed:   of both draws; a key's lot hashes seed, layer, set, query position and key position.
    Kept keys come first, best first, then the fill. Budgets are not nested: what is exact at one
    budget may be fill at another, so a smaller budget's support is no prefix of a larger one's.
    At one budget, the lots make a lower precision with keep=uniform keep a subset of a higher one.
    Source: the study's precision of an approximate top-k (arXiv 2512.03494), which leaves fill and
    keep open.
    """

    ranks_units: ClassVar[bool] = True

    precision: float
    fill: Literal["random", "next"] = "random"
    keep: Literal["best", "uniform"] = "best"
    target: str = "per_head"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.precision <= 1:
            raise ValueError(f"precision = {self.precision}; expected a share in 0..1")

    def fit(self, record: LayerRecord) -> Ranker:
        spoiled = _Spoiled(self, record, target(self.target))
        return BudgetRanker(record, spoiled.rows, 4 * record.heads)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """The exact top-k's: it must be known before it is spoiled."""
        return Exact(self.target).cost(record, budget)


@dataclass(frozen=True)
class _Spoiled:
    """A dial on one record."""

    dial: Dial
    record: LayerRecord
    goal: Target

    def rows(self, rows: slice, budget: int) -> Support:
        """int64 [set, row, budget]"""
        values = self.goal.chunk(self.record, rows, budget)  # (set, row, key)
        draw = lots(self.record, rows, self.dial.seed, len(values))
        ranked = topk(values, 2 * budget)[1]
        exact = ranked[..., :budget]
        wrong = ranked[..., budget:] if self.dial.fill == "next" else _others(values, draw, exact)
        lost = self._lost(rows, budget)
        held = (exact >= 0).sum(-1, keepdim=True)
        stays = self._order(exact, draw) < held - lost
        fills = torch.arange(budget, device=lost.device) < lost
        picked = torch.cat([_only(exact, stays), _only(wrong, fills)], dim=-1)
        empty_last = (picked < 0).int().argsort(dim=-1, stable=True)
        return picked.gather(-1, empty_last)[..., :budget]

    def _lost(self, rows: slice, budget: int) -> Tensor:
        """int64 [row, 1]: places of each row that go to wrong keys."""
        visible = self.record.count(rows)
        places = visible.clamp(max=budget)
        kept = (places.double() * self.dial.precision + 0.5).floor().long()
        return torch.minimum(places - kept, visible - places)[:, None]

    def _order(self, exact: Support, draw: Tensor) -> Tensor:
        """int64 [set, row, budget]: in which order the exact keys are kept; empty places last."""
        if self.dial.keep == "best":
            return torch.arange(exact.shape[-1], device=exact.device).expand_as(exact)
        lot = draw.gather(-1, exact.clamp(min=0)).masked_fill(exact < 0, float("-inf"))
        return lot.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def _others(values: Tensor, draw: Tensor, exact: Support) -> Support:
    """int64 [set, row, budget]: visible keys outside the exact ones, by their lots.

    A row with pads among its exact keys has no others, so that hiding key 0 for a pad hides none.
    """
    hidden = (values == float("-inf")).scatter(-1, exact.clamp(min=0), True)
    return topk(draw.masked_fill(hidden, float("-inf")), exact.shape[-1])[1]


def _only(support: Support, wanted: Tensor) -> Support:
    return support.masked_fill(~wanted, -1)
