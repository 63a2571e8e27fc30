"""A sample through every trial of a protocol: quality rows out, resumable sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from indexer_lab.capturing import Encoded
from indexer_lab.errors import InputError
from indexer_lab.quality.forward import generate, replay
from indexer_lab.quality.trial import DENSE, Protocol, Trial
from indexer_lab.store.quality import SCHEMA, Quality
from indexer_lab.tasks.episode import says
from indexer_probes.steering import steer

NAN = float("nan")


@dataclass
class Subject:
    """One sample before a model, and what its dense run gave.

    tokenizer: None when the prompts came as ids; then there is no text to score.
    """

    model: Any
    tokenizer: Any
    prompt: Encoded
    tokens: int
    _dense: list[int] | None = field(default=None, repr=False)
    _truth: Tensor | None = field(default=None, repr=False)

    def measure(self, trial: Trial) -> dict[str, float]:
        """The numbers of one trial: tokens, score, nll, delta_nll, kl and agreement."""
        if trial.mode == "replay":
            return self._replayed(trial)
        made = self._generated(trial)
        return {**_BLANK, "tokens": len(made), "score": self._score(made)}

    def _generated(self, trial: Trial) -> list[int]:
        first = trial.first(len(self.prompt.ids))
        with steer(self.model, trial.choose(), trial.layers, first):
            return generate(self.model, self.prompt.ids, self.tokens, self._ends)

    def _replayed(self, trial: Trial) -> dict[str, float]:
        tokens, truth = self._reference()
        logs = truth if trial.selector == DENSE else self._logs(trial, tokens)
        place = torch.tensor(tokens, device=logs.device)[:, None]
        nll = -logs.gather(1, place).mean()
        delta = nll + truth.gather(1, place).mean()
        kl = (truth.exp() * (truth - logs)).nan_to_num(nan=0.0, posinf=torch.inf).sum(-1).mean()
        agreement = (logs.argmax(-1) == truth.argmax(-1)).float().mean()
        return {
            "tokens": len(tokens),
            "score": NAN,
            "nll": float(nll),
            "delta_nll": float(delta),
            "kl": float(kl),
            "agreement": float(agreement),
        }

    def _reference(self) -> tuple[list[int], Tensor]:
        """The dense run's greedy tokens, and the dense log-probabilities over them."""
        if self._dense is None or self._truth is None:
            self._dense = self._generated(Trial("decode", DENSE, 0))
            self._truth = self._logs(Trial("replay", DENSE, 0), self._dense)
        return self._dense, self._truth

    def _logs(self, trial: Trial, tokens: list[int]) -> Tensor:
        first = trial.first(len(self.prompt.ids))
        with steer(self.model, trial.choose(), trial.layers, first):
            return replay(self.model, self.prompt.ids, tokens)

    def _ends(self, made: list[int]) -> bool:
        """An end token, or the end of the answer's line."""
        ends = self.model.generation_config.eos_token_id
        if ends is not None and made[-1] in (ends if isinstance(ends, list) else [ends]):
            return True
        return self.tokenizer is not None and "\n" in self._text(made).lstrip(" ")

    def _score(self, made: list[int]) -> float:
        """1 for the right answer, 0 for another; nan where there is none to compare with."""
        if self.tokenizer is None or not self.prompt.info.answer:
            return NAN
        return float(says(self._text(made)) == self.prompt.info.answer)

    def _text(self, made: list[int]) -> str:
        return str(self.tokenizer.decode(made, skip_special_tokens=True))


_BLANK = {"nll": NAN, "delta_nll": NAN, "kl": NAN, "agreement": NAN}


def run(
    model: Any,
    tokenizer: Any,
    encoded: list[Encoded],
    protocol: Protocol,
    quality: Quality,
    done: Callable[[str], None] = lambda what: None,
) -> None:
    """Runs every sample that is not on disk yet; `done` hears of each.

    Raises InputError for a prompt that leaves no room to generate, and for a selector that does not
    fit the model.
    """
    for prompt in encoded:
        if not quality.part(prompt.info).exists():
            subject = Subject(model, tokenizer, prompt, protocol.tokens)
            quality.save(prompt.info, _table(subject, protocol))
        done(prompt.info.id)


def check_lengths(encoded: list[Encoded], tokens: int, limit: int | None) -> None:
    """Raises InputError for a prompt too short to decode after, or too long to leave room."""
    for prompt in encoded:
        length = len(prompt.ids)
        if length < 2:
            raise InputError(
                f"prompt {prompt.info.id!r} has one token: a run needs two or more, the last of "
                "which is the first decode step"
            )
        if limit is not None and length + tokens > limit:
            raise InputError(
                f"prompt {prompt.info.id!r} has {length} tokens, and the model takes {limit}: no "
                f"room for --tokens {tokens}; shorten the prompt or ask for fewer"
            )


def _table(subject: Subject, protocol: Protocol) -> pa.Table:
    info = subject.prompt.info
    needle = info.needles[0][0] / info.length if info.needles else NAN
    facts = {"sample": info.id, "task": info.task, "length": info.length, "depth": needle}
    rows = [
        {
            **facts,
            "mode": trial.mode,
            "selector": trial.selector,
            "budget": trial.budget,
            "layer": trial.layer,
            **subject.measure(trial),
        }
        for trial in protocol.trials()
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
