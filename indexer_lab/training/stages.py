"""The four stages: pretrain, sft, indexer-warmup, indexer-sparse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from indexer_lab.training.attention import FULL, Full, TopK, attention_of
from indexer_lab.training.config import Plan
from indexer_lab.training.data import Batch, Stream
from indexer_lab.training.dsa import indexers_of, no_mask, replaced_indexers, require_indexers
from indexer_lab.training.indexer import dense_warmup, own_selection, watched
from indexer_lab.training.loop import Objective, Trainer
from indexer_lab.training.losses import language_loss
from indexer_lab.training.optimizer import optimizers_of


def finetune(
    plan: Plan, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path,
    attention: Full | TopK = FULL, **running: Any,
) -> None:  # fmt: skip
    """Trains every weight but an indexer's, on text and answers, with the attention asked for.

    running: resume, quiet and limit, as in `run`.
    """
    indexers = indexers_of(model)
    for indexer in indexers:
        indexer.requires_grad_(False)
    mask = no_mask(model)

    def objective(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return language_loss(model, batch, mask, plan.answers)

    with attention_of(model, attention), replaced_indexers(indexers):
        run(plan, model, tokenizer, folder, objective, **running)


def warm_up(
    plan: Plan, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path,
    **running: Any,
) -> None:  # fmt: skip
    """Trains the indexers alone on the weights of the model's own dense attention.

    Raises InputError when the model has no indexer.
    """
    model.requires_grad_(False)
    for indexer in require_indexers(model):
        indexer.requires_grad_(True)
    mask = no_mask(model)

    with watched(model, dense_warmup(_budget(plan, model), plan.stride)) as tally:

        def objective(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            with torch.autocast(batch.inputs.device.type, torch.bfloat16):
                model(
                    input_ids=batch.inputs, attention_mask=mask, use_cache=False, logits_to_keep=1
                )
            loss, recall = tally.take()
            return loss, {"recall": recall}

        run(plan, model, tokenizer, folder, objective, **running)


def sparsify(
    plan: Plan, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path,
    **running: Any,
) -> None:  # fmt: skip
    """Trains the model on the keys that its indexers pick, and the indexers on their weights.

    Raises InputError when the model has no indexer.
    """
    model.requires_grad_(True)
    mask = no_mask(model)

    with watched(model, own_selection(_budget(plan, model))) as tally:

        def objective(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            loss, parts = language_loss(model, batch, mask, plan.answers)
            distilled, recall = tally.take()
            parts |= {"indexer": distilled.detach(), "recall": recall}
            return loss + distilled, parts

        run(plan, model, tokenizer, folder, objective, _apart(plan, model), **running)


def run(
    plan: Plan, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path,
    objective: Objective, learners: list[Optimizer] | None = None,
    resume: bool = False, quiet: bool = False, limit: float = math.inf,
) -> None:  # fmt: skip
    """Runs a plan over an objective, for at most `limit` seconds, from a checkpoint on `resume`."""
    learners = learners or optimizers_of(model.named_parameters(), plan.lr)
    trainer = Trainer(plan, model, objective, learners, Stream(plan, tokenizer), folder, quiet)
    model.train()
    trainer.run(resume, limit)
    model.eval()


def _apart(plan: Plan, model: PreTrainedModel) -> list[Optimizer]:
    """Optimizers with a learning rate of their own for the indexers.

    A weight on the indexers' loss would change nothing: both optimizers divide by the gradient's
    size, and no parameter has a gradient from both losses.
    """
    indexed = {id(p) for indexer in require_indexers(model) for p in indexer.parameters()}
    named = list(model.named_parameters())
    rest = [(name, p) for name, p in named if id(p) not in indexed]
    own = [(name, p) for name, p in named if id(p) in indexed]
    return optimizers_of(rest, plan.lr) + optimizers_of(own, plan.indexer_lr)


def _budget(plan: Plan, model: PreTrainedModel) -> int:
    return plan.budget or int(model.config.index_topk)
