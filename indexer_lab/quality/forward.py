"""A prompt's cache, greedy decoding from it and teacher-forced replay of what follows it.

Whatever attention is open decides what the model sees. A prompt is read once, but for its last
token, and every continuation starts from its cache.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from indexer_lab.errors import InputError
from indexer_lab.quality.same_bits import same_bits
from indexer_probes.decoding import whole_cache

Stop = Callable[[list[int]], bool]
CACHED = ("keys", "values", "indexer_keys")
"""What a layer of a cache may hold, [..., token, dim] each."""


@dataclass
class Clock:
    """Seconds of a model's forwards, less what somebody else does meanwhile.

    device: one whose work is waited for before each look at the time.
    """

    device: torch.device
    seconds: float = 0.0
    _since: float = field(default=0.0, repr=False)

    def __enter__(self) -> Clock:
        self._since = self._now()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds += self._now() - self._since

    def aside(self, work: Callable[[], None]) -> None:
        """Does what is not to be counted, inside."""
        start = self._now()
        work()
        self.seconds -= self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def prefill(model: Any, ids: Tensor) -> DynamicCache:
    """The cache of a prompt int64 [token] but its last token, whose query is the first that
    answers."""
    cache = empty_cache(model)
    with torch.inference_mode():
        given = ids[None, :-1].to(model.device)
        model(input_ids=given, past_key_values=cache, logits_to_keep=1)
    return cache


def generate(
    model: Any,
    caches: Sequence[DynamicCache],
    last: Sequence[int],
    tokens: int,
    stops: Sequence[Stop],
    clock: Clock,
) -> list[list[int]]:
    """Greedy tokens of sequences side by side, at most `tokens` each, the last one kept.

    caches: each sequence's own, of all but its `last` token; they are not changed.
    stops:  asked with the tokens so far after each; a sequence that is done waits for the others.
    returns: for each what it would be alone, to the bit (see same_bits).
    """
    cache, pads = _side_by_side(caches)
    made: list[list[int]] = [[] for _ in caches]
    open_ones = set(range(len(caches)))
    step = torch.tensor(last)[:, None]  # (sequence, 1)
    places = torch.tensor([each.get_seq_length() for each in caches])[:, None]
    with torch.inference_mode(), clock, same_bits(model):
        while open_ones:
            asked = _masked(pads, cache.get_seq_length() + 1, model.device)
            logits = model(
                input_ids=step.to(model.device),
                position_ids=places.to(model.device),
                past_key_values=cache,
                **asked,
            ).logits[:, -1]
            step, places = logits.argmax(-1, keepdim=True).cpu(), places + 1
            for each in sorted(open_ones):
                made[each].append(int(step[each]))
                if len(made[each]) == tokens or stops[each](made[each]):
                    open_ones.remove(each)
    return made


def replay(
    model: Any, cache: DynamicCache, last: int, tokens: Sequence[int], clock: Clock
) -> Tensor:
    """float32 [token, vocabulary]: log-probabilities that predict each of `tokens` after a prompt.

    cache: of the prompt but its `last` token; it is not changed.
    """
    given = torch.tensor([[last, *tokens[:-1]]], device=model.device)
    with torch.inference_mode(), clock:
        logits = model(input_ids=given, past_key_values=fork(cache)).logits[0]
        return logits.float().log_softmax(-1)


def generate_alone(model: Any, ids: Tensor, tokens: int, stop: Stop) -> list[int]:
    """`generate` after one prompt int64 [token], which is read first."""
    made = generate(
        model, [prefill(model, ids)], [int(ids[-1])], tokens, [stop], Clock(model.device)
    )
    return made[0]


def replay_alone(model: Any, ids: Tensor, tokens: Sequence[int]) -> Tensor:
    """`replay` after one prompt int64 [token], which is read first."""
    return replay(model, prefill(model, ids), int(ids[-1]), tokens, Clock(model.device))


def fork(cache: DynamicCache) -> DynamicCache:
    """A cache that goes on from here by itself; both share the tensors so far, which a dynamic
    cache replaces and never writes into."""
    forked = copy.copy(cache)
    forked.layers = [copy.copy(layer) for layer in cache.layers]
    return forked


def shorten(cache: DynamicCache, length: int) -> None:
    """Leaves the first `length` tokens in a cache that drops nothing; what shares its tensors stays
    as it was."""
    for layer in cache.layers:
        for name in CACHED:
            held = getattr(layer, name, None)
            if held is not None and held.numel():
                setattr(layer, name, held[..., :length, :])
        places = getattr(layer, "indexer_position_ids", None)
        if places is not None:
            layer.indexer_position_ids = places[..., :length]


def empty_cache(model: Any) -> DynamicCache:
    """A cache that drops nothing: only an indexer's keys need the configuration's own layers.

    Raises InputError for a model with layers whose state is written in place: trials share what the
    prompt left in a cache, and could not share that.
    """
    cache = whole_cache(model)
    for number, layer in enumerate(cache.layers):
        if not isinstance(layer, DynamicLayer):
            raise InputError(
                f"layer {number} of this {model.config.model_type} keeps a running state "
                f"({type(layer).__name__}), which trials cannot share; capture and score it instead"
            )
    indexed = any(hasattr(module, "indexer") for module in model.modules())
    return cache if indexed else DynamicCache()


def _side_by_side(caches: Sequence[DynamicCache]) -> tuple[DynamicCache, list[int]]:
    """One cache of all sequences, shorter ones with zeros on the left, and how many of them."""
    joined = fork(caches[0])
    if len(caches) == 1:
        return joined, [0]
    longest = max(cache.get_seq_length() for cache in caches)
    pads = [longest - cache.get_seq_length() for cache in caches]
    for number, layer in enumerate(joined.layers):
        for name in CACHED:
            if getattr(layer, name, None) is not None:
                parts = [getattr(cache.layers[number], name) for cache in caches]
                pairs = zip(parts, pads, strict=True)
                setattr(layer, name, torch.cat([F.pad(part, (0, 0, p, 0)) for part, p in pairs]))
    return joined, pads


def _masked(pads: list[int], keys: int, device: torch.device) -> dict[str, Tensor]:
    """The attention mask of a batch, int64 [sequence, key]; a single sequence needs none."""
    if len(pads) == 1:
        return {}
    starts = torch.tensor(pads)[:, None]
    return {"attention_mask": (torch.arange(keys) >= starts).long().to(device)}
