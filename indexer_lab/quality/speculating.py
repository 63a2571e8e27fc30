"""Speculative decoding under SpecAttn: a draft proposes, the model verifies what it attends to.

A round: the draft makes `gamma` greedy steps, and its attention is kept. The model runs the
round's tokens in one forward, attending to the union of what the steps read. Its own greedy choices
stand as far as the draft foresaw them, and one further. So every token is the model's choice under
the selection, and no draft can smuggle one in. The draft itself is dense.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from indexer_lab.errors import InputError
from indexer_lab.quality.forward import Clock, Stop, empty_cache, fork, prefill, shorten
from indexer_lab.quality.same_bits import same_bits
from indexer_lab.selectors.layer_map import layer_map, likeness
from indexer_lab.selectors.spec_follow import SpecFollower
from indexer_lab.selectors.spec_map import QUERIES, attentions, head_mean, listed
from indexer_probes.capture import capture
from indexer_probes.records import LayerRecord
from indexer_probes.steering import steer


@dataclass
class Speculating:
    """One sequence's rounds.

    drafted, accepted: tokens that were proposed, and those of them that the model chose too.
    """

    follower: SpecFollower
    drafted: int = 0
    accepted: int = 0

    def prepare(self, model: Any, prompt: Tensor, whole: bool) -> None:
        """Before any selection: the layer map, and for a sparse prompt (`whole`) its drafts."""
        draft, known = self._draft(model), self.follower.settings.layer_map
        if not self.follower.mapped:
            mapped = listed(known) if known else _calibrated(model, draft, prompt)
            self.follower.mapped.extend(mapped)
        if whole:
            self._expect(_Reader(draft, self._layers()).run(prompt[:-1], empty_cache(draft))[1])

    def generate(
        self, model: Any, prompt: Tensor, cache: DynamicCache, tokens: int, stop: Stop, clock: Clock
    ) -> list[int]:
        draft = self._draft(model)
        own, drafts = fork(cache), prefill(draft, prompt)
        reader, made = _Reader(draft, self._layers()), [int(prompt[-1])]
        with torch.inference_mode(), clock, same_bits(model), same_bits(draft):
            while len(made) <= tokens and not (made[1:] and stop(made[1:])):
                held = own.get_seq_length()
                given, foreseen = self._drafts(reader, made[-1], drafts)
                ids = torch.tensor([given], device=model.device)
                logits = model(input_ids=ids, past_key_values=own).logits[0]
                chosen = logits.argmax(-1).tolist()
                right = _right(foreseen, chosen)
                self.drafted += len(given) - 1
                self.accepted += right
                for token in chosen[: right + 1]:
                    made.append(token)
                    if len(made) > tokens or stop(made[1:]):
                        return made[1:]
                for each in (own, drafts):
                    shorten(each, held + right + 1)
        return made[1:]

    def replay(
        self, model: Any, prompt: Tensor, cache: DynamicCache, forced: Sequence[int], clock: Clock
    ) -> Tensor:
        draft = self._draft(model)
        given = torch.tensor([int(prompt[-1]), *forced[:-1]])
        drafts = prefill(draft, prompt)
        with torch.inference_mode(), clock:
            self._expect(_Reader(draft, self._layers()).run(given, drafts)[1])
            ids = given[None].to(model.device)
            logits = model(input_ids=ids, past_key_values=fork(cache)).logits[0]
            return logits.float().log_softmax(-1)

    def _drafts(
        self, reader: _Reader, token: int, cache: DynamicCache
    ) -> tuple[list[int], list[int]]:
        """The round's tokens, `token` first, and what the draft chose after each."""
        given, foreseen, steps = [token], [], []
        for step in range(self.follower.settings.gamma):
            logits, read = reader.run(torch.tensor(given[-1:]), cache)
            steps.append(read)
            foreseen.append(int(logits[-1].argmax()))
            if step < self.follower.settings.gamma - 1:
                given.append(foreseen[-1])
        keys = cache.get_seq_length()
        self._expect(
            {
                layer: torch.cat([_grown(step[layer], keys) for step in steps])
                for layer in self._layers()
            }
        )
        return given, foreseen

    def _expect(self, read: dict[int, Tensor]) -> None:
        """What the queries of the next forward choose from."""
        settings = self.follower.settings
        self.follower.united = {layer: settings.united(each) for layer, each in read.items()}

    def _layers(self) -> list[int]:
        return sorted(set(self.follower.mapped[self.follower.settings.dense :]))

    def _draft(self, model: Any) -> Any:
        settings = self.follower.settings
        draft = draft_model(settings.draft, settings.exit, str(model.device), model.dtype)
        if draft.config.vocab_size != model.config.vocab_size:
            raise InputError(
                f"draft {settings.draft!r} has {draft.config.vocab_size} tokens and the model "
                f"{model.config.vocab_size}: a draft must share the tokenizer"
            )
        return draft


@dataclass
class _Reader:
    """The draft with eyes on its attention in some layers."""

    draft: Any
    layers: list[int]
    heard: dict[int, Tensor] = field(default_factory=dict)

    def run(self, ids: Tensor, cache: DynamicCache) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits [token, vocabulary], and each layer's head-averaged attention [token, key]."""
        self.heard = {}
        with torch.inference_mode(), steer(self.draft, [], layers=()), self._listening():
            given = ids[None].to(self.draft.device)
            logits = self.draft(input_ids=given, past_key_values=cache).logits[0]
        return logits, self.heard

    @contextmanager
    def _listening(self) -> Iterator[None]:
        if not self.layers:
            yield
            return
        with capture(self.draft, self._keep, layers=self.layers, witnesses=0):
            yield

    def _keep(self, record: LayerRecord) -> None:
        parts = [head_mean(record, rows) for rows in record.chunks(2 * record.heads)]
        self.heard[record.layer] = torch.cat(parts)


@lru_cache(maxsize=2)
def draft_model(name: str, layers: int, device: str, dtype: torch.dtype) -> Any:
    """A draft model, cut to its first layers where they are named. Raises InputError."""
    from indexer_lab.reference import resolve
    from indexer_probes.loading import load_model

    model = load_model(resolve(name), device=device, dtype=dtype)
    stack = model.model.layers
    if layers > len(stack):
        raise InputError(f"exit={layers}: the draft {name!r} has {len(stack)} layers")
    if layers:
        model.model.layers = stack[:layers]
        model.config.num_hidden_layers = layers
    return model


def _calibrated(model: Any, draft: Any, prompt: Tensor) -> tuple[int, ...]:
    """The layer map on a prompt's own last queries, both models dense."""
    seen: list[list[LayerRecord]] = []
    for each in (model, draft):
        records: list[LayerRecord] = []
        with (
            torch.inference_mode(),
            steer(each, [], layers=()),
            capture(each, records.append, rows=_last, witnesses=0),
        ):
            each(input_ids=prompt[None].to(each.device), use_cache=False, logits_to_keep=1)
        seen.append(sorted(records, key=lambda record: record.layer))
    return tuple(layer_map(likeness(attentions(seen[0]), attentions(seen[1]))))


def _last(length: int) -> Tensor:
    return torch.arange(max(0, length - QUERIES), length)


def _right(foreseen: list[int], chosen: list[int]) -> int:
    """How many drafts of a round stand: those before the first that the model did not choose."""
    right = 0
    while right < len(chosen) - 1 and foreseen[right] == chosen[right]:
        right += 1
    return right


def _grown(weights: Tensor, keys: int) -> Tensor:
    """[row, key]: the same with the keys that came later hidden."""
    return F.pad(weights, (0, keys - weights.shape[-1]), value=float("-inf"))
