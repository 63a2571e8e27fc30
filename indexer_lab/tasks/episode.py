"""What a task hands over before it is planted, and what a user gets after.

A task writes an `Episode`: lines to plant in a text, and questions about them. `plant` turns an
episode into a `Sample`. All character spans are half-open ranges into `Sample.text`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Question:
    """One question: what it asks and what a right answer says.

    prompt:  the line up to the answer, without a space at its end, ``? calm_otter is``.
    answer:  what follows after one space, without a line end.
    needles: indices into `Episode.lines` of the lines that the answer needs.
    """

    prompt: str
    answer: str
    needles: tuple[int, ...]


@dataclass(frozen=True)
class Episode:
    """Lines to plant, each without its line end, and questions to ask after the text.

    together: plant all lines as one block instead of spreading them.
    """

    lines: tuple[str, ...]
    questions: tuple[Question, ...]
    together: bool = False


@dataclass(frozen=True)
class Needle:
    """A planted line that the answer needs.

    start, end: characters of `Sample.text`, half open.
    depth:      share of the text before the needle, 0 at its beginning to 1 at the question.
    """

    start: int
    end: int
    depth: float


@dataclass(frozen=True)
class Sample:
    """One prompt with its right answer.

    id:      unique within a run: task, length, seed and index.
    text:    context and question; a model continues it with a space and the answer.
    answer:  what a right continuation says before its first line end.
    needles: the planted lines that the answer needs, in text order.
    tokens:  length of `text` as measured, in tokens of the tokenizer that was asked for.
    later:   further (prompt, answer) pairs about the same text, for training; empty in evaluation.
    """

    id: str
    task: str
    text: str
    answer: str
    needles: tuple[Needle, ...]
    tokens: int
    later: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def matches(sample: Sample, continuation: str) -> bool:
    """Whether a model's continuation gives the whole answer, and nothing else, on its first line.

    continuation: what the model wrote after `sample.text`. Spaces at the ends do not count.
    """
    return says(continuation) == sample.answer


def says(continuation: str) -> str:
    """What a continuation answers: its first line, without spaces at the ends."""
    return continuation.strip(" ").split("\n", 1)[0].strip()
