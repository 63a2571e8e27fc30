"""Labelled examples in the text: the answer is the label of an example not seen before.

The label depends on the noun alone, by a rule drawn anew for each text.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from indexer_lab.tasks.episode import Episode, Question
from indexer_lab.tasks.words import VALUES

LABELS, EXAMPLES = 4, 3


def classification(rng: Random, keys: Sequence[str], size: int = 6, questions: int = 1) -> Episode:
    """`size` nouns with 3 examples each and 4 labels; `questions` of them get a new adjective."""
    families = _families(keys)
    labels = rng.sample(VALUES, LABELS)
    nouns = rng.sample([noun for noun, pairs in families.items() if len(pairs) > EXAMPLES], size)
    rule = {noun: rng.choice(labels) for noun in nouns}
    drawn = {noun: rng.sample(families[noun], EXAMPLES + 1) for noun in nouns}
    examples = [(noun, pair) for noun in nouns for pair in drawn[noun][:EXAMPLES]]
    rng.shuffle(examples)
    asked = rng.sample(nouns, min(questions, size))
    return Episode(
        tuple(f"# {pair} -> {rule[noun]}" for noun, pair in examples),
        tuple(
            Question(
                f"? {drawn[noun][EXAMPLES]} ->",
                rule[noun],
                tuple(index for index, (other, _) in enumerate(examples) if other == noun),
            )
            for noun in asked
        ),
    )


def _families(keys: Sequence[str]) -> dict[str, list[str]]:
    families: dict[str, list[str]] = {}
    for key in keys:
        families.setdefault(key.split("_")[1], []).append(key)
    return families
