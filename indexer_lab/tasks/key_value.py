"""A table of keys and values in one block of the text: the answer is one entry's value."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from indexer_lab.tasks import facts
from indexer_lab.tasks.episode import Episode, Question


def key_value(rng: Random, keys: Sequence[str], size: int = 64, questions: int = 1) -> Episode:
    """A block of `size` entries, `questions` of them asked for (at most `size`)."""
    entries = facts.draw(rng, keys, size)
    asked = rng.sample(range(size), min(questions, size))
    lines = ["table = {", *(f"    {key}: {value}" for key, value in entries), "}"]
    return Episode(
        tuple(lines),
        tuple(
            Question(f"? table {entries[index][0]}:", entries[index][1], (index + 1,))
            for index in asked
        ),
        together=True,
    )
