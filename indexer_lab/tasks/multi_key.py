"""Many facts of one form hidden in the text, a question about one of them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from indexer_lab.tasks import facts
from indexer_lab.tasks.episode import Episode


def multi_key(rng: Random, keys: Sequence[str], size: int = 16, questions: int = 1) -> Episode:
    """`size` facts spread over the text, `questions` of them asked for (at most `size`)."""
    planted = facts.draw(rng, keys, size)
    asked = rng.sample(range(size), min(questions, size))
    return Episode(
        tuple(facts.statement(*fact) for fact in planted),
        tuple(facts.ask(planted, index) for index in asked),
    )
