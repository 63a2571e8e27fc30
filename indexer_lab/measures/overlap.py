"""How much of the exact support was found."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from indexer_lab.measures.answer import Answer

SINK = 4
"""Keys 0 to 3 are the sink."""
LOCAL = 64
"""Keys fewer than this many tokens before the query are local; the rest is far."""


def recall(answer: Answer) -> Tensor:
    """Exact keys found over min(budget, visible); boundary ties are interchangeable."""
    return answer.by_head(answer.found / answer.places)


def jaccard(answer: Answer) -> Tensor:
    """Shared keys over all keys in either support, with the same rule for ties."""
    picked = answer.paired(answer.valid).sum(-1)
    return answer.by_head(answer.found / (picked + answer.places - answer.found))


def top1(answer: Answer) -> Tensor:
    """1 where the support holds a key of the largest target value, else 0."""
    best = answer.paired(answer.ground.top_values(answer.budget))[..., :1]
    return answer.by_head((answer.target_values == best).any(-1).float())


def recall_sink(answer: Answer) -> Tensor:
    """Recall of the exact keys among the first 4; NaN where there is none."""
    return _recall_where(answer, lambda key, query: key < SINK)


def recall_local(answer: Answer) -> Tensor:
    """Recall of the exact keys fewer than 64 tokens back, the sink left out."""
    return _recall_where(answer, lambda key, query: (key >= SINK) & (query - key < LOCAL))


def recall_far(answer: Answer) -> Tensor:
    """Recall of the exact keys at least 64 tokens back, the sink left out."""
    return _recall_where(answer, lambda key, query: (key >= SINK) & (query - key >= LOCAL))


def _recall_where(answer: Answer, inside: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    exact = answer.paired(answer.ground.support(answer.budget))
    asked = (exact >= 0) & inside(exact, answer.block.positions[:, None])
    hit = answer.paired(answer.member).gather(-1, exact.clamp(min=0)) & asked
    return answer.by_head(hit.sum(-1) / asked.sum(-1))  # 0 / 0 is the NaN that says "none here"
