"""The facts that the needle tasks share: a key, a value, and the line that states them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from indexer_lab.tasks.episode import Question
from indexer_lab.tasks.words import VALUES


def statement(key: str, value: str) -> str:
    """The line that is planted for a fact."""
    return f"# {key} is {value}"


def draw(rng: Random, keys: Sequence[str], count: int) -> list[tuple[str, str]]:
    """`count` facts with distinct keys; values may repeat."""
    return [(key, rng.choice(VALUES)) for key in rng.sample(keys, count)]


def ask(facts: Sequence[tuple[str, str]], index: int) -> Question:
    """The question for the value of one fact."""
    key, value = facts[index]
    return Question(f"? {key} is", value, (index,))
