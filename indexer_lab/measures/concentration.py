"""How concentrated attention is, over all visible keys and over the selected ones alone.

Rows are taken a chunk at a time, so that no attention matrix of a sequence ever exists.
"""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_lab.measures.ground import Block
from indexer_lab.targets import probabilities
from indexer_probes.records import LayerRecord

SHARES = {"keys_90": 0.90, "keys_95": 0.95, "keys_99": 0.99}
FACTS = ("entropy", "effective_support", *SHARES)
SELECTED = ("mass", *(f"selected_{name}" for name in FACTS))


def concentration(record: LayerRecord, support: Tensor | None = None) -> dict[str, Tensor]:
    """FACTS of softmax over the visible keys, and SELECTED of the same renormalised on a support.

    support: int64 [set, query, budget], places that hide a key or repeat one do not count; None
             when every visible key is attended to.
    returns: name -> float32 [head, query]; the SELECTED are nan without a support and, but for
             `mass`, where a support holds no visible key.
    """
    parts = [_chunk(record, rows, support) for rows in record.chunks()]
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def _chunk(record: LayerRecord, rows: slice, support: Tensor | None) -> dict[str, Tensor]:
    block = Block(record, rows)
    entropy = block.entropy
    needed = {name: block.needed(share) for name, share in SHARES.items()}
    facts = {"entropy": entropy, "effective_support": entropy.exp(), **needed}
    if support is None:
        nothing = torch.full_like(facts["entropy"], float("nan"))
        return {**facts, **dict.fromkeys(SELECTED, nothing)}
    return {**facts, **_selected(block, support[:, rows])}


def _selected(block: Block, support: Tensor) -> dict[str, Tensor]:
    picked = support.sort(dim=-1).values  # (set, row, budget)
    counts = block.sees(picked)
    counts[..., 1:] &= picked[..., 1:] != picked[..., :-1]
    heads = len(block.probs)
    counts = counts.repeat_interleave(heads // len(support), dim=0)
    places = picked.repeat_interleave(heads // len(support), dim=0)
    places = places.masked_fill(~counts, 0)
    logits = block.logits.gather(-1, places).masked_fill(~counts, float("-inf"))
    kept = probabilities(logits)
    held = counts.sum(-1)  # (head, row)
    facts = _facts(kept, held)
    nan = torch.tensor(float("nan"), device=held.device)
    named = {f"selected_{name}": torch.where(held > 0, facts[name], nan) for name in FACTS}
    mass = (block.probs.gather(-1, places) * counts).sum(-1)
    return {"mass": mass, **named}


def _facts(probs: Tensor, held: Tensor) -> dict[str, Tensor]:
    """FACTS of probabilities [head, row, place], of which `held` [head, row] are keys."""
    entropy = torch.special.entr(probs).sum(-1)
    reached = probs.sort(dim=-1, descending=True).values.cumsum(-1)
    needed = {}
    for name, share in SHARES.items():
        enough = reached >= share
        short = ~enough.any(-1)  # rounding can leave the sum a hair under the share
        needed[name] = torch.where(short, held, enough.int().argmax(-1) + 1).float()
    return {"entropy": entropy, "effective_support": entropy.exp(), **needed}
