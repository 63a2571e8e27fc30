"""Held-out source text as it is: nothing is planted or asked, the text must be predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from indexer_lab.errors import InputError
from indexer_lab.tasks.episode import Sample
from indexer_lab.tasks.plant import stretch
from indexer_lab.tasks.prompts import ruler_of

NAME = "source_text"
ABOUT = "unseen source text, to be predicted: bits per byte"
PREDICTED = 512  # tokens at the end of a text, at most, that are predicted


def texts(
    measure: Callable[[str], int] | Any, length: int, count: int, seed: int = 0
) -> Iterator[Sample]:
    """Stretches of files that no reference model was trained on, of at most `length` tokens.

    measure: a tokenizer, or a function from a text to its number of tokens.
    Raises InputError for a length under 8 tokens, and for a count below 0.
    """
    if count < 0:
        raise InputError(f"count is {count}: expected 0 or more samples")
    if length < 8:
        raise InputError(f"length is {length}: a text to predict needs 8 tokens or more")
    ruler = ruler_of(measure)
    for index in range(count):
        name = f"{NAME}-{length}-{seed}-{index}"
        text = "".join(stretch(Random(f"eval-{name}"), ruler, length, "eval"))
        yield Sample(name, NAME, text, "", (), ruler.measure(text))
