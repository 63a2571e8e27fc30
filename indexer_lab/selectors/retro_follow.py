"""RetroAttention along a running sequence: outputs of past steps, corrected as pages arrive.

A step hands in the queries of the last `window` tokens, embedded anew, and the cache holds their
new keys. The newest query attends to the pages it loads. Each past one keeps the output it had and
adds attention over what was just loaded and it has not seen, by a merge of partial softmaxes. So
what later layers compute from a past token changes, and with it the keys and values that all later
steps find in the cache.

As in the paper, an output that is kept was made with the query, keys and values of its time; what
is added uses those of now. In the first selecting layer, where they do not change, the result is
attention over the union of pages.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Ranker, Support
from indexer_lab.selectors.retro import Retro
from indexer_probes.attention import attend_selected
from indexer_probes.families import AttentionCall
from indexer_probes.merging import Part, attend_part, merged
from indexer_probes.records import LayerRecord, MaskRule


@dataclass(frozen=True)
class Past:
    """What is kept of one token's query in one layer.

    part: its attention so far, one row.
    seen: bool [head, key], the keys that it holds.
    """

    position: int
    part: Part
    seen: Tensor

    def with_more(self, part: Part, keys: Tensor) -> Past:
        """The same with attention over more keys, bool [head, key], none of them seen before."""
        return Past(self.position, merged(self.part, part), _grown(self.seen, keys) | keys)


@dataclass
class RetroFollower:
    """The outputs of the last steps of one sequence, layer by layer.

    A record whose first query is position 0 is a sparse prompt: its queries are given as many keys
    as everybody's, the union of a score table, and nothing of it is corrected later.
    """

    page: int
    window: int
    past: dict[int, list[Past]] = field(default_factory=dict)
    _record: LayerRecord | None = None

    def again(self) -> RetroFollower:
        return RetroFollower(self.page, self.window)

    def fit(self, record: LayerRecord) -> Ranker:
        self._record = record
        if _is_prompt(record):
            return Retro(self.page, self.window).fit(record)
        again = record.positions[:-1].tolist()
        kept = self._kept(record)
        if [each.position for each in kept] != again:
            known = [each.position for each in self.past.get(record.layer, [])]
            raise InputError(
                f"selector 'retro', layer {record.layer}: queries {again} come again, and the last "
                f"that were kept are {known}; follow the sequence forwards, step by step"
            )
        newest = record.at(record.positions.new_tensor([record.rows - 1]))
        loads = Retro(self.page, window=1).fit(newest)
        return _Step(record, loads, [each.seen for each in kept])

    def attend(self, call: AttentionCall, rule: MaskRule, support: Support) -> Tensor:
        """[1, query, head, value_dim]: the newest query's output, past ones corrected.

        support: the last record's: what the newest loads, and what that adds to each past query.
        """
        record = self._record
        assert record is not None
        if _is_prompt(record):
            return attend_selected(call, rule, support, 0)
        now, keys = attend_part(call, rule, support), _members(support, record.length)
        held = [
            old.with_more(Part(now.output[:, row, None], now.total[:, row, None]), keys[:, row])
            for row, old in enumerate([*self._kept(record), _nothing(record, call)])
        ]
        self.past[record.layer] = held[-(self.window - 1) :] if self.window > 1 else []
        return self._outputs(call, rule, support, [each.part for each in held])

    def _kept(self, record: LayerRecord) -> list[Past]:
        """Those of the record's queries that come again."""
        known = self.past.get(record.layer, [])
        return known[max(0, len(known) - record.rows + 1) :] if record.rows > 1 else []

    def _outputs(
        self, call: AttentionCall, rule: MaskRule, support: Support, parts: list[Part]
    ) -> Tensor:
        """In the model's dtype; the newest query's by the attention that every selector gets."""
        last = replace(call, queries=call.queries[:, :, -1:])
        newest = attend_selected(last, rule, support[:, -1:], 0)
        older = [_with_sinks(part, rule).to(newest.dtype) for part in parts[:-1]]
        return torch.cat([each.transpose(0, 1)[None] for each in older] + [newest], dim=1)


@dataclass(frozen=True)
class _Step:
    """A step's load, and what of it each past query has not seen."""

    record: LayerRecord
    newest: Ranker
    seen: list[Tensor]

    def scores(self, rows: slice) -> Tensor | None:
        return None

    def top(self, budget: int) -> Support:
        """int64 [head, query, budget]; -1 may stand anywhere in a past query's row."""
        load = self.newest.top(budget)  # (head, 1, budget)
        visible = self.record.visible(slice(None))
        added = []
        for row, seen in enumerate(self.seen):
            new = ~_grown(seen, visible) & visible[row]
            fresh = new.gather(-1, load[:, 0].clamp(min=0)) & (load[:, 0] >= 0)
            added.append(load[:, 0].masked_fill(~fresh, -1))
        return torch.stack([*added, load[:, 0]], dim=1)


def _nothing(record: LayerRecord, call: AttentionCall) -> Past:
    """What the newest query holds before it attends."""
    device, heads = record.queries.device, record.heads
    empty = Part(
        torch.zeros(heads, 1, call.values.shape[-1], device=device),
        torch.full((heads, 1), float("-inf"), device=device),
    )
    seen = torch.zeros(heads, record.length, dtype=torch.bool, device=device)
    return Past(int(record.positions[-1]), empty, seen)


def _is_prompt(record: LayerRecord) -> bool:
    return int(record.positions[0]) == 0


def _members(support: Support, length: int) -> Tensor:
    """bool [head, row, key]"""
    marks = torch.zeros(*support.shape[:2], length + 1, dtype=torch.bool, device=support.device)
    return marks.scatter_(-1, support.masked_fill(support < 0, length), True)[..., :length]


def _grown(seen: Tensor, keys: Tensor) -> Tensor:
    """bool [head, key]: the same over the keys that there are now, as in `keys` [..., key]."""
    return F.pad(seen, (0, keys.shape[-1] - seen.shape[-1]))


def _with_sinks(part: Part, rule: MaskRule) -> Tensor:
    """float32 [head, row, value_dim]: with what the family's sinks take from the keys."""
    if rule.sinks is None:
        return part.output
    share = torch.sigmoid(part.total - rule.sinks.float()[:, None])
    return part.output * share.unsqueeze(-1)
