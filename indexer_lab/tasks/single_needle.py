"""One fact hidden in the text, one question about it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from indexer_lab.tasks import facts
from indexer_lab.tasks.episode import Episode


def single_needle(rng: Random, keys: Sequence[str], size: int = 1, questions: int = 1) -> Episode:
    """A single needle; `size` and `questions` are part of every task's signature and stay 1."""
    planted = facts.draw(rng, keys, 1)
    return Episode((facts.statement(*planted[0]),), (facts.ask(planted, 0),))
