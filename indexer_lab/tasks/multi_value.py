"""A key that has several values: the answer lists them in the order of the text."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from indexer_lab.tasks import facts
from indexer_lab.tasks.episode import Episode, Question
from indexer_lab.tasks.words import VALUES

PER_KEY = 4


def multi_value(rng: Random, keys: Sequence[str], size: int = 4, questions: int = 1) -> Episode:
    """`size` keys with 4 distinct values each, their lines mixed; `questions` keys are asked."""
    chosen = rng.sample(keys, size)
    planted = [(key, value) for key in chosen for value in rng.sample(VALUES, PER_KEY)]
    rng.shuffle(planted)
    return Episode(
        tuple(facts.statement(*fact) for fact in planted),
        tuple(_ask_all(planted, key) for key in rng.sample(chosen, min(questions, size))),
    )


def _ask_all(planted: Sequence[tuple[str, str]], key: str) -> Question:
    where = tuple(index for index, fact in enumerate(planted) if fact[0] == key)
    return Question(f"? all {key} are", ", ".join(planted[index][1] for index in where), where)
