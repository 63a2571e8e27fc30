"""Pages chosen as in Quest; a query also gets what the next steps load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from indexer_lab.selectors.base import Cost, Ranker, ScoreRanker
from indexer_lab.selectors.blocks import Blocks, bound_asks, bounds, check_size
from indexer_lab.selectors.steps import need_every_step
from indexer_probes.records import LayerRecord

if TYPE_CHECKING:
    from indexer_lab.selectors.retro_follow import RetroFollower


@dataclass(frozen=True)
class Retro:
    """Quest's pages, and to each query those too that the steps after it load.

    page:   tokens in a page.
    window: steps whose pages a query gets, its own among them; 1 is Quest.

    Which budget? In a score table, what a query ends up with: the union of the steps from t to
    t + window - 1 at the load at which it holds the budget, so that no selector is given more keys
    than another; a step's own load is then less than the budget. In a live run, what a step loads:
    each query attends to `budget` keys when its token is made, as with every other selector, and
    its output is corrected afterwards by what later steps load anyway. `union_sizes` says what
    either is in terms of the other.
    The last rows of a record have fewer steps after them, as at the end of an answer. A record must
    hold every step: positions without gaps.
    Source: RetroAttention (arXiv 2508.09001), Quest (arXiv 2406.10774).
    """

    page: int = 16
    window: int = 2

    def __post_init__(self) -> None:
        check_size("page", self.page)
        if self.window < 1:
            raise ValueError(f"window = {self.window}; expected 1 step or more")

    def fit(self, record: LayerRecord) -> Ranker:
        need_every_step(record, "retro")
        pages = self._pages(record)

        def score(rows: slice) -> Tensor:
            reach = slice(rows.start, min(rows.stop + self.window - 1, record.rows))
            hidden = pages.visible(reach) == 0
            ranks = ranked(pages.scores(reach).masked_fill(hidden, float("-inf")))
            entries = self._entries(ranks, rows.stop - rows.start)
            return -entries.repeat_interleave(self.page, dim=-1)[..., : record.length]

        return ScoreRanker(record, score, record.heads, width=pages.width + record.heads)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """One step's page scores: what later steps load is paid for by them."""
        return self._pages(record).cost()

    def follow(self) -> RetroFollower:
        from indexer_lab.selectors.retro_follow import RetroFollower

        return RetroFollower(self.page, self.window)

    def _pages(self, record: LayerRecord) -> Blocks:
        return Blocks(record, self.page, bound_asks(record.queries), bounds)

    def _entries(self, ranks: Tensor, rows: int) -> Tensor:
        """float32 [head, row, page]: in which order pages join a query's union as the load grows;
        at equal loads, those of earlier steps first."""
        steps = ranks.shape[1]
        entries = ranks[:, :rows] * self.window
        for later in range(1, self.window):
            until = min(rows, steps - later)
            joined = ranks[:, later : later + until] * self.window + later
            entries[:, :until] = torch.minimum(entries[:, :until], joined)
        return entries


def ranked(scores: Tensor) -> Tensor:
    """float32 like [..., page]: 0 for the best page; the first of equals is better."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1).float()


def union_sizes(record: LayerRecord, load: int, page: int = 16, window: int = 2) -> Tensor:
    """int64 [head, query]: keys in the union of steps t to t + window - 1 that load `load` each."""
    need_every_step(record, "retro")
    own = Retro(page, window=1).fit(record).top(load)  # (head, query, load)
    members = torch.zeros(record.heads, record.rows, record.length + 1, dtype=torch.bool)
    members.scatter_(-1, own.masked_fill(own < 0, record.length).cpu(), True)
    union = members.clone()
    for later in range(1, min(window, record.rows)):
        union[:, :-later] |= members[:, later:]
    return (union[..., :-1] & record.visible(slice(None)).cpu()).sum(-1)
