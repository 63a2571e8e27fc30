"""Several keys asked for in one question: the answer repeats each key with its value."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from indexer_lab.tasks import facts
from indexer_lab.tasks.episode import Episode, Question

PER_QUESTION = 4


def multi_query(rng: Random, keys: Sequence[str], size: int = 16, questions: int = 1) -> Episode:
    """`size` facts spread over the text; each of `questions` questions asks for up to 4 keys."""
    planted = facts.draw(rng, keys, size)
    asked = [rng.sample(range(size), min(PER_QUESTION, size)) for _ in range(questions)]
    return Episode(
        tuple(facts.statement(*fact) for fact in planted),
        tuple(_ask_each(planted, indices) for indices in asked),
    )


def _ask_each(planted: Sequence[tuple[str, str]], indices: Sequence[int]) -> Question:
    names = ", ".join(planted[index][0] for index in indices)
    answer = ", ".join("{} is {}".format(*planted[index]) for index in indices)
    return Question(f"? each {names}:", answer, tuple(sorted(indices)))
