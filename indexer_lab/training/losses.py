"""The loss of the language model: text and answers, each as a mean of its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indexer_lab.training.data import IGNORE, Batch
from indexer_lab.training.processes import mean_over_processes


def language_loss(
    model: nn.Module, batch: Batch, mask: Any, answers: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on text plus `answers` times that on answers, in nats a token.

    returns: the loss to minimise, and its parts: text, answer, and hit (share of answer tokens
             that are the most likely ones). Each is this process's part of the mean over all
             tokens of all processes: averaged over them, it is that mean.
    """
    with torch.autocast(batch.inputs.device.type, torch.bfloat16):
        logits = model(input_ids=batch.inputs, attention_mask=mask, use_cache=False).logits
    flat, labels = logits.flatten(0, 1).float(), batch.labels.flatten()
    each = F.cross_entropy(flat, labels, ignore_index=IGNORE, reduction="none")
    in_answer = batch.answers.flatten()
    in_text = (labels != IGNORE) & ~in_answer
    text = (each * in_text).sum() / _count(in_text)
    answer = (each * in_answer).sum() / _count(in_answer)
    right = (flat.detach().argmax(-1) == labels) & in_answer
    hit = right.sum() / _count(in_answer)
    return text + answers * answer, {"text": text.detach(), "answer": answer.detach(), "hit": hit}


def _count(tokens: Tensor) -> Tensor:
    """How many tokens a process has on average; tiny in place of 0, whose sum is 0 too."""
    return mean_over_processes(tokens.sum().float()).clamp(min=1e-6)


def distillation(scores: Tensor, target: Tensor) -> Tensor:
    """KL(target ‖ softmax(scores)) in nats, averaged over all but the last axis.

    scores: float32 [..., query, key]; −inf hides a key.
    target: float32 [..., query, key], rows that sum to 1, 0 where scores hide; it gets no gradient.
    """
    logs = scores.log_softmax(-1).masked_fill(scores.isneginf(), 0.0)
    return F.kl_div(logs, target, reduction="none").sum(-1).mean()
