"""Lists of words in which one word occurs more often than any other: the answer is that word."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from indexer_lab.tasks.episode import Episode, Question
from indexer_lab.tasks.words import VALUES

COMMON, OTHERS, PER_LINE = 8, 8, 4


def common_words(rng: Random, keys: Sequence[str], size: int = 2, questions: int = 1) -> Episode:
    """`size` named lists of 16 words, over 4 lines each; `questions` of them are asked for.

    In each list one word occurs 8 times and 8 others once.
    """
    lines: list[tuple[str, str]] = []
    common: dict[str, str] = {}
    for key in rng.sample(keys, size):
        first, *others = rng.sample(VALUES, 1 + OTHERS)
        words = [first] * COMMON + others
        rng.shuffle(words)
        common[key] = first
        rows = (words[start : start + PER_LINE] for start in range(0, len(words), PER_LINE))
        lines += [(key, f"# {key} saw {' '.join(row)}") for row in rows]
    rng.shuffle(lines)
    asked = rng.sample(sorted(common), min(questions, size))
    return Episode(
        tuple(line for _, line in lines),
        tuple(
            Question(
                f"? common {key}:",
                common[key],
                tuple(index for index, (other, _) in enumerate(lines) if other == key),
            )
            for key in asked
        ),
    )
