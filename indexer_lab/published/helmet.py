"""A HELMET sample as token ids, and before a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.published.compare import BLANK, NAN, compare, forced
from indexer_lab.published.helmet_data import HelmetSample, read
from indexer_lab.published.helmet_scores import SCORES
from indexer_lab.published.helmet_tasks import HelmetTask
from indexer_lab.quality.forward import generate_alone
from indexer_lab.quality.trial import DENSE, Trial
from indexer_lab.store.capture import SampleInfo
from indexer_probes.steering import steer


@dataclass(frozen=True)
class HelmetQuestion:
    """A sample as the model gets it. begins: what its output goes on from."""

    info: SampleInfo
    ids: list[int]
    task: HelmetTask
    answers: list[str]
    begins: str
    depth: float


def questions(
    data: Path,
    tasks: dict[str, HelmetTask],
    length: int,
    tokenizer: Any,
    limit: int | None,
    chat: bool,
) -> list[HelmetQuestion]:
    """HELMET's samples of some tasks at a length, at most `limit` a task.

    chat: the prompt is the user's turn of the tokenizer's chat template; else the beginning of the
          answer follows it, as HELMET does for these tasks.
    A prompt that leaves no room for the answer loses the end of its context, as in HELMET.
    """
    return [
        _question(name, task, sample, length, tokenizer, chat)
        for name, task in tasks.items()
        for sample in read(data, name, task, length)[:limit]
    ]


def _question(
    name: str, task: HelmetTask, sample: HelmetSample, length: int, tokenizer: Any, chat: bool
) -> HelmetQuestion:
    fields, words = sample.fields, _Words(task, tokenizer, chat)
    text = words.text(fields)
    ids = words.ids(text)
    if (excess := len(ids) + task.tokens - length) > 0:
        fields = {**fields, "context": _cut(fields["context"], excess, tokenizer)}
        text = words.text(fields)
        ids = words.ids(text)
    info = SampleInfo(f"helmet-{name}-{length}-{sample.line}", f"helmet:{name}", len(ids))
    begins = "" if chat else task.answer.format(**fields)
    depth = NAN if task.kind == "kilt" else _depth(text, sample.answers, words, len(ids))
    return HelmetQuestion(info, ids, task, sample.answers, begins, depth)


@dataclass(frozen=True)
class _Words:
    """A task's words through a tokenizer, whose template and special tokens are its own."""

    task: HelmetTask
    tokenizer: Any
    chat: bool

    def text(self, fields: dict[str, Any]) -> str:
        user = self.task.user.format(**fields)
        if not self.chat:
            return f"{user}\n{self.task.answer.format(**fields)}"
        turn = [{"role": "user", "content": user}]
        text: str = self.tokenizer.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=True
        )
        return text

    def ids(self, text: str) -> list[int]:
        """A chat template writes its own special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=not self.chat)["input_ids"]
        return ids


def _cut(context: str, excess: int, tokenizer: Any) -> str:
    """The context without its last `excess` tokens."""
    if not tokenizer.is_fast:
        raise InputError(
            "a HELMET prompt is too long, and this tokenizer cannot say where its tokens are in "
            "the text: use a fast tokenizer or a greater --length"
        )
    offsets = tokenizer(context, return_offsets_mapping=True)["offset_mapping"]
    return context[: offsets[-excess][0]] if excess < len(offsets) else ""


def _depth(text: str, answers: list[str], words: _Words, length: int) -> float:
    """Share of the prompt's tokens before the first answer in it; nan where there is none."""
    places = [place for answer in answers if (place := text.find(answer)) >= 0]
    return min(len(words.ids(text[: min(places)])) / length, 1.0) if places else NAN


def check_room(questions: list[HelmetQuestion], limit: int | None) -> None:
    """Raises InputError for a prompt that the model cannot take with its answer."""
    for each in questions:
        need = len(each.ids) + each.task.tokens
        if limit is not None and need > limit:
            raise InputError(
                f"{each.info.task} has a prompt of {len(each.ids)} tokens and {each.task.tokens} "
                f"to generate, and the model takes {limit}: give a smaller --length or another "
                "model"
            )


class HelmetExam:
    """One HELMET sample before a model, and what its dense run gave."""

    def __init__(self, model: Any, tokenizer: Any, question: HelmetQuestion):
        self._model = model
        self._tokenizer = tokenizer
        self._question = question

    def measure(self, trial: Trial) -> dict[str, float]:
        if trial.mode == "replay":
            logs = self._truth if trial.selector == DENSE else self._forced(trial)
            found = compare(logs, self._truth, self._dense)
            return {**BLANK, "tokens": len(self._dense), **found}
        made = self._dense if trial.selector == DENSE else self._generated(trial)
        return {**BLANK, "tokens": len(made), "score": self._score(made)}

    @cached_property
    def _dense(self) -> list[int]:
        return self._generated(Trial("decode", DENSE, 0))

    @cached_property
    def _truth(self) -> Tensor:
        return self._forced(Trial("replay", DENSE, 0))

    def _forced(self, trial: Trial) -> Tensor:
        return forced(self._model, trial, self._ids, self._dense)

    @property
    def _ids(self) -> Tensor:
        """int64 [token]"""
        return torch.tensor(self._question.ids, dtype=torch.int64)

    def _generated(self, trial: Trial) -> list[int]:
        ids, tokens = self._ids, self._question.task.tokens
        with steer(self._model, trial.choose(), trial.layers, trial.first(len(ids))):
            return generate_alone(self._model, ids, tokens, self._ends)

    def _ends(self, made: list[int]) -> bool:
        ends = self._model.generation_config.eos_token_id
        if ends is not None and made[-1] in (ends if isinstance(ends, list) else [ends]):
            return True
        return self._question.task.line and "\n" in self._text(made)

    def _score(self, made: list[int]) -> float:
        output = self._question.begins + self._text(made)
        return SCORES[self._question.task.score](output, self._question.answers)

    def _text(self, made: list[int]) -> str:
        return str(self._tokenizer.decode(made, skip_special_tokens=True))
