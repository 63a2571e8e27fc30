"""What a model gets right: exact match of whole answers, and bits per byte of unseen sources."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from indexer_lab.errors import InputError
from indexer_lab.tasks import Sample, prompts
from indexer_lab.tasks.plant import stretch
from indexer_lab.tasks.prompts import ruler_of
from indexer_lab.training.attention import FULL, Full, TopK, attention_of
from indexer_lab.training.dsa import indexers_of, no_mask, replaced_indexers
from indexer_lab.training.indexer import dense_warmup, watched

Z = 1.959964  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Share:
    """`right` of `count`, with the 95 % Wilson interval."""

    right: int
    count: int

    @property
    def value(self) -> float:
        return self.right / self.count

    def interval(self) -> tuple[float, float]:
        """Lower and upper end, in [0, 1]; sensible at 0 and at 1 too."""
        share, count = self.value, self.count
        middle = share + Z * Z / (2 * count)
        half = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
        scale = 1 + Z * Z / count
        return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


@contextmanager
def dense(model: PreTrainedModel, kind: Full | TopK = FULL) -> Iterator[None]:
    """Within the block the model attends as `kind` says; its indexer, if any, selects nothing."""
    with attention_of(model, kind), replaced_indexers(indexers_of(model)):
        yield


@contextmanager
def sparse(model: PreTrainedModel, budget: int) -> Iterator[None]:
    """Within the block the model's own indexer selects `budget` keys, by transformers' own code."""
    if not indexers_of(model):
        raise InputError(f"{type(model).__name__} has no indexer: evaluate it in dense mode")
    before = [indexer.index_topk for indexer in indexers_of(model)]
    _set_budgets(model, [budget] * len(before))
    try:
        yield
    finally:
        _set_budgets(model, before)


def _set_budgets(model: PreTrainedModel, budgets: Sequence[Any]) -> None:
    for indexer, budget in zip(indexers_of(model), budgets, strict=True):
        indexer.index_topk = budget


@torch.no_grad()
def solves(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, samples: Sequence[Sample],
    masked: bool,
) -> list[bool]:  # fmt: skip
    """Whether greedy decoding would write each whole answer and then end the line.

    One forward pass decides it: greedy decoding follows the answer exactly when every token of the
    answer is the most likely one after the tokens before it. The samples run side by side; what
    fills up the shorter ones stands behind them, where no causal query looks.
    masked: whether transformers builds its own causal mask (sparse mode) or none is needed.
    """
    answers = [_ids(tokenizer, f" {sample.answer}\n") for sample in samples]
    pairs = zip(samples, answers, strict=True)
    texts = [_ids(tokenizer, sample.text) + answer for sample, answer in pairs]
    longest = max(map(len, texts))
    ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])  # (sample, token)
    mask = None if masked else no_mask(model)
    states = model.base_model(
        input_ids=ids.to(model.device), attention_mask=mask, use_cache=False
    ).last_hidden_state
    head: Any = model.get_output_embeddings()
    return [
        head(own[len(text) - len(answer) - 1 : len(text) - 1]).argmax(-1).tolist() == answer
        for own, text, answer in zip(states, texts, answers, strict=True)
    ]


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def exact_match(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, samples: Iterable[Sample],
    masked: bool = False, batch: int = 1,
) -> Share:  # fmt: skip
    """The share of samples that a model solves, in whatever mode it is in, `batch` at a time."""
    found: list[bool] = []
    waiting = iter(samples)
    while group := list(islice(waiting, batch)):
        found += solves(model, tokenizer, group, masked)
    if not found:
        raise InputError("no samples to evaluate: ask for at least one")
    return Share(sum(found), len(found))


@torch.no_grad()
def bits_per_byte(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, length: int, count: int,
    seed: int = 0,
) -> tuple[float, tuple[float, float]]:  # fmt: skip
    """Bits per byte of held-out source files, with its 95 % bootstrap interval over stretches.

    length: tokens of a stretch; count: stretches, each from a random place of the eval split.
    """
    ruler = ruler_of(tokenizer)
    pairs = []
    for index in range(count):
        rows = stretch(Random(f"bits-{seed}-{index}"), ruler, length, "eval")
        text = "".join(rows)
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)], device=model.device)
        logits = model(input_ids=ids, attention_mask=no_mask(model), use_cache=False).logits
        nats = F.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="sum")
        first = len(tokenizer.decode(ids[0, :1]).encode())
        pairs.append((float(nats) / math.log(2), len(text.encode()) - first))
    return _ratio(pairs, seed)


@torch.no_grad()
def indexer_recall(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, length: int, budget: int,
    count: int, seed: int = 0,
) -> tuple[float, tuple[float, float]]:  # fmt: skip
    """Share of the dense attention's top keys (mean over heads) that the indexer picks.

    length, count: tokens and number of texts, all of the task multi_key on the eval split.
    budget: keys a query; only queries that see more count, every 4th of them, in every layer.
    returns: the mean and its 95 % bootstrap interval over texts.
    """
    found: list[tuple[float, int]] = []
    for sample in prompts("multi_key", tokenizer, length, count, seed):
        ids = torch.tensor([tokenizer.encode(sample.text, add_special_tokens=False)])
        with watched(model, dense_warmup(budget, 4)) as tally:
            model(
                input_ids=ids.to(model.device), attention_mask=no_mask(model), use_cache=False,
                logits_to_keep=1,
            )  # fmt: skip
        found.append((float(tally.take()[1]), 1))
    return _ratio(found, seed)


def _ratio(pairs: list[tuple[float, int]], seed: int) -> tuple[float, tuple[float, float]]:
    table = torch.tensor(pairs, dtype=torch.float64)  # (stretch, bits and bytes)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(pairs), (1000, len(pairs)), generator=generator)
    sums: Tensor = table[draws].sum(1)
    ends = (sums[:, 0] / sums[:, 1]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    total = table.sum(0)
    return float(total[0] / total[1]), (float(ends[0]), float(ends[1]))
