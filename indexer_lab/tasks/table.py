"""The table of tasks: a new task is one file and one line here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from indexer_lab.tasks.classification import classification
from indexer_lab.tasks.common_words import common_words
from indexer_lab.tasks.counting import counting
from indexer_lab.tasks.episode import Episode
from indexer_lab.tasks.key_value import key_value
from indexer_lab.tasks.multi_key import multi_key
from indexer_lab.tasks.multi_query import multi_query
from indexer_lab.tasks.multi_value import multi_value
from indexer_lab.tasks.single_needle import single_needle
from indexer_lab.tasks.variable_tracking import variable_tracking


class Writer(Protocol):
    """A task's function: draws an episode from `rng` with keys out of `keys`."""

    def __call__(self, rng: Random, keys: Sequence[str], size: int, questions: int) -> Episode: ...


@dataclass(frozen=True)
class Task:
    """A task and how large it is unless asked otherwise.

    size:  keys, chains, lists or nouns of an evaluation sample.
    about: one line for `ls tasks`.
    """

    write: Writer
    size: int
    about: str


TASKS: dict[str, Task] = {
    "single_needle": Task(single_needle, 1, "one fact in the text, asked for"),
    "multi_key": Task(multi_key, 16, "16 facts of one form, one asked for"),
    "multi_value": Task(multi_value, 4, "4 keys with 4 values each, all values of one asked for"),
    "multi_query": Task(multi_query, 16, "16 facts, 4 asked for in one question"),
    "key_value": Task(key_value, 64, "a table of 64 entries, one asked for"),
    "variable_tracking": Task(variable_tracking, 4, "4 chains of 3 hops, one traced to its value"),
    "counting": Task(counting, 4, "4 lines that occur 1 to 9 times, one counted"),
    "common_words": Task(common_words, 2, "2 lists of words, the most common of one asked for"),
    "classification": Task(classification, 6, "18 labelled examples, a new one to label"),
}
