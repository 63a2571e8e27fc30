"""Greedy decoding and teacher-forced replay of one sequence, under whatever attention is open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


def generate(model: Any, ids: Tensor, tokens: int, stop: Callable[[list[int]], bool]) -> list[int]:
    """Greedy tokens after `ids` (int64 [token], 2 or more), at most `tokens`, the last one kept.

    The prompt but its last token is one forward; that token is the first decode step, so that every
    generated token comes from a decode step's attention.
    stop: asked with the tokens so far after each.
    """
    cache, place, made = _cache(model), model.device, list[int]()
    with torch.inference_mode():
        model(input_ids=ids[None, :-1].to(place), past_key_values=cache, logits_to_keep=1)
        last = int(ids[-1])
        while len(made) < tokens and not (made and stop(made)):
            step = torch.tensor([[last]], device=place)
            logits = model(input_ids=step, past_key_values=cache).logits[0, -1]
            last = int(logits.argmax())
            made.append(last)
    return made


def replay(model: Any, ids: Tensor, tokens: list[int]) -> Tensor:
    """float32 [token, vocabulary]: log-probabilities that predict each of `tokens` after `ids`."""
    whole = torch.cat([ids, torch.tensor(tokens[:-1], dtype=torch.int64)])
    with torch.inference_mode():
        given = whole[None].to(model.device)
        logits = model(input_ids=given, use_cache=False, logits_to_keep=len(tokens)).logits[0]
        return logits.float().log_softmax(-1)


def _cache(model: Any) -> DynamicCache:
    """A cache that drops nothing: only an indexer's keys need the configuration's own layers."""
    indexed = any(hasattr(module, "indexer") for module in model.modules())
    return DynamicCache(config=model.config) if indexed else DynamicCache()
