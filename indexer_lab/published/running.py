"""Published samples through every trial: quality rows out, resumable sample by sample."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Protocol as Shape
from typing import TypeVar

import pyarrow as pa

from indexer_lab.quality.trial import Protocol, Trial
from indexer_lab.store.capture import SampleInfo
from indexer_lab.store.files import written
from indexer_lab.store.quality import SCHEMA, Quality, Sheets

PROMPTS = "prompts.jsonl"


class Question(Shape):
    """A published sample as it waits. ids: its prompt's tokens. depth: share of the prompt before
    the needle, or nan."""

    @property
    def info(self) -> SampleInfo: ...
    @property
    def ids(self) -> list[int]: ...
    @property
    def depth(self) -> float: ...


class Exam(Shape):
    """A published sample before a model."""

    def measure(self, trial: Trial) -> dict[str, float]:
        """tokens, score, nll, delta_nll, kl and agreement of one trial."""
        ...


Q = TypeVar("Q", bound=Question)


def run(
    questions: Iterable[Q],
    sit: Callable[[Q], Exam],
    protocol: Protocol,
    quality: Quality,
    done: Callable[[str], None] = lambda what: None,
) -> None:
    """Runs every sample that is not on disk yet; `done` hears of each.

    sit: puts a sample before the model; what it remembers of the dense run goes with it.
    """
    for question in questions:
        info = question.info
        if not quality.part(info).exists():
            quality.save(info, Sheets(_table(question, sit(question), protocol)))
        done(info.id)


def keep_prompts(questions: Iterable[Question], quality: Quality) -> None:
    """Writes the samples' prompts as token ids beside their rows, for `capture --prompts`: what a
    selector missed on them can then be related to what that cost."""
    lines = [
        json.dumps({"id": each.info.id, "task": each.info.task, "input_ids": each.ids})
        for each in questions
    ]
    with written(quality.path / PROMPTS) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _table(question: Question, exam: Exam, protocol: Protocol) -> pa.Table:
    info = question.info
    facts = {
        "sample": info.id,
        "task": info.task,
        "length": info.length,
        "depth": question.depth,
    }
    rows = [
        {
            **facts,
            "mode": trial.mode,
            "selector": trial.selector,
            "budget": trial.budget,
            "layer": trial.layer,
            **exam.measure(trial),
        }
        for trial in protocol.trials()
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
