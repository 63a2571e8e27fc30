"""Decoding that embeds the last tokens anew at every step, so that the cache holds what became of
them: RetroAttention's overwriting of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from indexer_lab.quality.forward import Clock, Stop, fork, shorten
from indexer_lab.quality.same_bits import same_bits


@dataclass(frozen=True)
class Revisiting:
    """A step runs the newest token and the `window` - 1 before it, none of the prompt but its last.

    A cache that holds w tokens less gets all of them again, each layer's keys and values from what
    the layer before it now says of them.
    """

    window: int

    def prepare(self, model: Any, prompt: Tensor, whole: bool) -> None:
        """Nothing is needed."""

    def generate(
        self, model: Any, prompt: Tensor, cache: DynamicCache, tokens: int, stop: Stop, clock: Clock
    ) -> list[int]:
        steps, made = _Steps(model, fork(cache), self.window), [int(prompt[-1])]
        with torch.inference_mode(), clock, same_bits(model):
            while len(made) <= tokens and not (made[1:] and stop(made[1:])):
                made.append(int(steps.take(made[-1]).argmax()))
        return made[1:]

    def replay(
        self, model: Any, prompt: Tensor, cache: DynamicCache, forced: Sequence[int], clock: Clock
    ) -> Tensor:
        steps, given = _Steps(model, fork(cache), self.window), [int(prompt[-1]), *forced[:-1]]
        with torch.inference_mode(), clock, same_bits(model):
            logits = torch.stack([steps.take(token) for token in given])
            return logits.float().log_softmax(-1)


class _Steps:
    def __init__(self, model: Any, cache: DynamicCache, window: int):
        self._model = model
        self._cache = cache
        self._window = window
        self._start = cache.get_seq_length()
        self._fed: list[int] = []

    def take(self, token: int) -> Tensor:
        """[vocabulary]: the logits after one more token."""
        self._fed.append(token)
        again = self._fed[-self._window :]
        shorten(self._cache, self._start + len(self._fed) - len(again))
        given = torch.tensor([again], device=self._model.device)
        output = self._model(input_ids=given, past_key_values=self._cache, logits_to_keep=1)
        logits: Tensor = output.logits[0, -1]
        return logits
