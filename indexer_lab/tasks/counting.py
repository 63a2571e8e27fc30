"""A line that occurs several times: the answer is how often."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from indexer_lab.tasks.episode import Episode, Question

MOST = 9


def counting(rng: Random, keys: Sequence[str], size: int = 4, questions: int = 1) -> Episode:
    """`size` keys marked 1 to 9 times each, lines mixed; `questions` of them are counted."""
    counts = {key: rng.randint(1, MOST) for key in rng.sample(keys, size)}
    marked = [key for key, count in counts.items() for _ in range(count)]
    rng.shuffle(marked)
    asked = rng.sample(sorted(counts), min(questions, size))
    return Episode(
        tuple(f"# mark {key}" for key in marked),
        tuple(
            Question(
                f"? count {key}:",
                str(counts[key]),
                tuple(index for index, other in enumerate(marked) if other == key),
            )
            for key in asked
        ),
    )
