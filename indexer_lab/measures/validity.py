"""Places of a support that cannot count: they point nowhere, at the future, or twice at one key."""

from __future__ import annotations

from torch import Tensor

from indexer_lab.measures.answer import Answer


def duplicates(answer: Answer) -> Tensor:
    """Places that repeat a key of an earlier place."""
    return _count(answer, answer.repeated)


def future(answer: Answer) -> Tensor:
    """Places that hold a key the query may not see: after it, or before its window."""
    inside = (answer.given >= 0) & (answer.given < answer.block.record.length)
    return _count(answer, inside & ~answer.block.sees(answer.given))


def out_of_range(answer: Answer) -> Tensor:
    """Places that hold no key of the sequence and are not the pad -1."""
    given = answer.given
    return _count(answer, (given < -1) | (given >= answer.block.record.length))


def missing(answer: Answer) -> Tensor:
    """Pads (-1) beyond those that the visible keys explain."""
    spare = answer.budget - answer.places
    return answer.by_head(((answer.given == -1).sum(-1) - spare).clamp(min=0).float())


def _count(answer: Answer, places: Tensor) -> Tensor:
    return answer.by_head(places.sum(-1).float())
