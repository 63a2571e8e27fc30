"""Chains of assignments: the answer follows one back to its value, naming every step."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from indexer_lab.tasks.episode import Episode, Question
from indexer_lab.tasks.words import VALUES

HOPS = 3


def variable_tracking(
    rng: Random, keys: Sequence[str], size: int = 4, questions: int = 1
) -> Episode:
    """`size` chains of 3 hops each, lines mixed but each chain in order; `questions` are traced.

    The first name of a chain is assigned a value, each later one the name before it.
    """
    names = rng.sample(keys, size * (HOPS + 1))
    chains = [names[start::size] for start in range(size)]
    sources = [[rng.choice(VALUES), *chain[:-1]] for chain in chains]
    order = [chain for chain in range(size) for _ in range(HOPS + 1)]
    rng.shuffle(order)
    taken = [0] * size
    lines: list[str] = []
    where: list[list[int]] = [[] for _ in range(size)]
    for chain in order:
        step = taken[chain]
        where[chain].append(len(lines))
        lines.append(f"# {chains[chain][step]} = {sources[chain][step]}")
        taken[chain] += 1
    asked = rng.sample(range(size), min(questions, size))
    return Episode(
        tuple(lines),
        tuple(
            Question(
                f"? trace {chains[chain][-1]} =",
                " = ".join(reversed(sources[chain])),
                tuple(where[chain]),
            )
            for chain in asked
        ),
    )
