"""Attention in parts: over some keys now, over others later, and what both are together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_probes.families import AttentionCall
from indexer_probes.records import MaskRule


@dataclass(frozen=True)
class Part:
    """Attention over some of the keys.

    output: float32 [head, row, value_dim], values weighed by the softmax over these keys alone;
            zero where there are none.
    total:  float32 [head, row], log of the sum of exp(logit) over them; -inf where there are none.
    """

    output: Tensor
    total: Tensor


def attend_part(call: AttentionCall, rule: MaskRule, support: Tensor) -> Part:
    """The attention of a call's queries over what their support names and the rule shows.

    support: int64 [head, query, k], distinct, -1 marks an empty place.
    A family's attention sinks are no keys: they are left out.
    """
    keys, values = (_heads(states[0], call) for states in (call.keys, call.values))
    places = support.clamp(min=0)
    head = torch.arange(len(support), device=support.device)[:, None, None]
    queries = call.queries[0].float().unsqueeze(-2)  # (head, query, 1, dim)
    logits = (queries * keys[head, places].float()).sum(-1) * call.scale  # (head, query, k)
    positions = torch.arange(call.rows, device=support.device) + call.first
    seen = rule.visible(positions, call.length).expand(len(support), -1, -1)
    logits.masked_fill_((support < 0) | ~seen.gather(-1, places), float("-inf"))
    weights = torch.softmax(logits, dim=-1).nan_to_num(nan=0.0)
    output = (weights.unsqueeze(-1) * values[head, places].float()).sum(-2)
    return Part(output, logits.logsumexp(-1))


def merged(first: Part, second: Part) -> Part:
    """What attention over both parts' keys is; they share none.

    Source: the merge of partial softmaxes in FlashAttention (arXiv 2205.14135).
    """
    total = torch.logaddexp(first.total, second.total)
    shares = [(part.total - total).exp().nan_to_num(nan=0.0) for part in (first, second)]
    output = shares[0].unsqueeze(-1) * first.output + shares[1].unsqueeze(-1) * second.output
    return Part(output, total)


def _heads(states: Tensor, call: AttentionCall) -> Tensor:
    """[head, key, dim]: each key head's states, for every query head that reads them."""
    return states.repeat_interleave(call.queries.shape[1] // len(states), dim=0)
