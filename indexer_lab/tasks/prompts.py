"""The one entry: samples of a task at a length, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from indexer_lab.errors import InputError, unknown_name
from indexer_lab.tasks import words
from indexer_lab.tasks.episode import Sample
from indexer_lab.tasks.plant import Ruler, plant
from indexer_lab.tasks.table import TASKS


def ruler_of(measure: Any) -> Ruler:
    """A ruler from a tokenizer (anything with ``encode``) or from a function text → tokens."""
    if hasattr(measure, "encode"):
        tokenizer = measure
        return Ruler(lambda text: len(tokenizer.encode(text, add_special_tokens=False)), {})
    return Ruler(measure, {})


def prompts(
    task: str,
    measure: Callable[[str], int] | Any,
    length: int,
    count: int,
    seed: int = 0,
    *,
    split: str = "eval",
    size: int | None = None,
) -> Iterator[Sample]:
    """Samples of one task, each filled up to a length with real text.

    task:    a name in `TASKS`.
    measure: a tokenizer, or a function from a text to its number of tokens.
    length:  tokens of text and answer together; a sample uses at most that many and less than
             one line of text fewer. Special tokens that a tokenizer adds come on top.
    count:   how many samples; sample i does not depend on how many are asked for.
    seed:    the same seed gives the same samples (for one Python version, see `haystack`).
    split:   "eval", or "train" for the files and keys that the reference models learned from.
    size:    how many keys, chains or lists; by default the task's own (`TASKS[task].size`).
    Raises InputError for an unknown task or split, a count below 0, or a length that is too
    small for the task's own lines.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if split not in words.SPLITS:
        raise unknown_name("split", split, words.SPLITS)
    if count < 0:
        raise InputError(f"count is {count}: expected 0 or more samples")
    return _draw(task, ruler_of(measure), length, count, seed, split, size or TASKS[task].size)


def _draw(
    task: str, ruler: Ruler, length: int, count: int, seed: int, split: str, size: int
) -> Iterator[Sample]:
    for index in range(count):
        yield numbered(task, ruler, length, index, seed, split, size)


def numbered(
    task: str, ruler: Ruler, length: int, index: int, seed: int, split: str = "eval",
    size: int | None = None,
) -> Sample:  # fmt: skip
    """Sample `index` of those that `prompts` gives."""
    name = f"{task}-{length}-{seed}-{index}"
    return draw(task, ruler, length, name, split, size or TASKS[task].size)


def draw(
    task: str, ruler: Ruler, length: int, name: str, split: str, size: int, questions: int = 1,
    close: bool = False,
) -> Sample:  # fmt: skip
    """One sample, all of it decided by its name; more `questions` end up in `Sample.later`.

    close: plant lines close together, as `plant` says.
    """
    rng = Random(f"{split}-{name}-{size}")
    episode = TASKS[task].write(rng, words.keys(split), size, questions)
    return plant(episode, rng, ruler, length, split, task, name, close)
