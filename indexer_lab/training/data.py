"""Batches for training: the tasks' own samples, with many questions a text.

A batch is decided by the plan's seed and the step alone, so a resumed run sees the same data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from indexer_lab.errors import InputError
from indexer_lab.tasks import TASKS, Sample
from indexer_lab.tasks.plant import Ruler, stretch
from indexer_lab.tasks.prompts import draw
from indexer_lab.tasks.words import ADJECTIVES, NOUNS, VALUES
from indexer_lab.training.config import Phase, Plan

IGNORE = -100
TEXT, ANSWER, UNLEARNED = 0, 1, 2  # what a token is to the loss
CONTEXT = 3  # tokens of a repeated passage that are given before it must be continued
Row = tuple[list[int], list[int]]  # token ids and their kinds
PER_UNIT = {  # tokens that one unit of a task's size, asked for once, takes in the small BPE
    "single_needle": 15,
    "multi_key": 14,
    "multi_value": 45,
    "multi_query": 22,
    "key_value": 14,
    "variable_tracking": 50,
    "counting": 45,
    "common_words": 50,
    "classification": 32,
}


@dataclass(frozen=True)
class Batch:
    """One step's data.

    inputs:  int64 [sequence, token].
    labels:  int64 [sequence, token], the next token; −100 where nothing is learned (padding).
    answers: bool [sequence, token], true where the label belongs to an answer.
    """

    inputs: Tensor
    labels: Tensor
    answers: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(self.inputs.to(device), self.labels.to(device), self.answers.to(device))


class Stream:
    """Draws the batches of a plan, with a given tokenizer."""

    def __init__(self, plan: Plan, tokenizer: PreTrainedTokenizerFast) -> None:
        self.plan, self.tokenizer = plan, tokenizer
        self.backend = tokenizer.backend_tokenizer
        self.pad = tokenizer.pad_token_id or 0
        self.words = self._words()
        self.ruler = Ruler(self.measure, {})

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def measure(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self.encode(text))

    def _words(self) -> list[int]:
        """The tokens of the tasks' own words, as far as one token says a word's beginning."""
        spelled = [f" {word}" for word in (*ADJECTIVES, *VALUES)] + [f"_{word}" for word in NOUNS]
        return sorted({self.encode(word)[0] for word in spelled})

    def batch(self, phase: Phase, step: int, rank: int = 0) -> Batch:
        """The batch of one step and process: its share of what one would draw for all."""
        first = rank * phase.batch
        rows = [
            self._sequence(phase.length, f"{self.plan.seed}-{step}-{row}")
            for row in range(first, first + phase.batch)
        ]
        ids = torch.full((len(rows), phase.length + 1), self.pad)  # (sequence, token)
        kinds = torch.full_like(ids, UNLEARNED)
        for index, (tokens, its_kinds) in enumerate(rows):
            count = min(len(tokens), phase.length + 1)
            ids[index, :count] = torch.tensor(tokens[:count])
            kinds[index, :count] = torch.tensor(its_kinds[:count])
        labels = ids.masked_fill(kinds == UNLEARNED, IGNORE)[:, 1:]
        answers = (kinds == ANSWER)[:, 1:]
        return Batch(ids[:, :-1].contiguous(), labels.contiguous(), answers.contiguous())

    def _sequence(self, length: int, name: str) -> Row:
        """One sequence: repeats, text, or a task in text."""
        rng = Random(f"sequence-{name}")
        if rng.random() < self.plan.repeats:
            return self._repeats(rng, length)
        if rng.random() < self.plan.text:
            ids = self.encode("".join(stretch(rng, self.ruler, length + 1, "train")))
            return ids, [TEXT] * len(ids)
        task = rng.choices(list(self.plan.tasks), list(self.plan.tasks.values()))[0]
        most = max(1, int(length * self.plan.density / PER_UNIT[task]))
        size = rng.randint(1, min(most, 4 * TASKS[task].size))
        close = rng.random() < self.plan.close
        sample = self._sample(task, length + 1, name, size, close)
        if sample is None:
            ids = self.encode("".join(stretch(rng, self.ruler, length + 1, "train")))
            return ids, [TEXT] * len(ids)
        pieces = [(sample.text, TEXT), (f" {sample.answer}\n", ANSWER)]
        for prompt, answer in sample.later:
            pieces += [(prompt, TEXT), (f" {answer}\n", ANSWER)]
        ids, kinds = [], []
        for text, kind in pieces:
            tokens = self.encode(text)
            ids += tokens
            kinds += [kind] * len(tokens)
        return ids, kinds

    def _sample(self, task: str, length: int, name: str, size: int, close: bool) -> Sample | None:
        """A sample with as many units as fit, `size` at most; None where not even one does."""
        while size:
            try:
                return draw(task, self.ruler, length, name, "train", size, size, close)
            except InputError:
                size = size * 2 // 3
        return None

    def _repeats(self, rng: Random, length: int) -> Row:
        """A random passage over and over: it can be told only by what followed before.

        Few different tokens make the last token alone ambiguous, so several must be matched.
        """
        period = rng.randint(8, max(8, length // 2))
        some = rng.sample(self.words, rng.choice((8, 16, 32, 64, 128)))
        ids = rng.choices(some, k=period)
        kinds = [UNLEARNED] * (period + CONTEXT) + [ANSWER] * (length + 1 - period - CONTEXT)
        return (ids * (length // period + 1))[: length + 1], kinds


@dataclass(frozen=True)
class Steps(Dataset[Batch]):
    """A plan's batches from step `start` on, by number."""

    stream: Stream
    start: int
    rank: int

    def __len__(self) -> int:
        return self.stream.plan.steps - self.start

    def __getitem__(self, index: int) -> Batch:
        step = self.start + index
        return self.stream.batch(self.stream.plan.phase(step), step, self.rank)


def ahead(stream: Stream, start: int, rank: int = 0) -> Iterable[Batch]:
    """The batches of every step from `start` on, drawn ahead by the plan's worker processes."""
    steps = Steps(stream, start, rank)
    return DataLoader(steps, batch_size=None, num_workers=stream.plan.workers)
