"""Muon for the matrices inside a model, AdamW for embeddings, norms and vectors.

Muon learns retrieval in fewer tokens than AdamW alone at these sizes; both share one learning rate
because Muon's updates are scaled to the size of AdamW's.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

VECTORS = 0.3  # AdamW's share of the rate: a rare token's embedding must not jump


def optimizers_of(named: Iterable[tuple[str, nn.Parameter]], lr: float) -> list[Optimizer]:
    """One or two optimizers for the parameters that require a gradient."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        inner = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if inner else rest).append(parameter)
    found: list[Optimizer] = []
    if matrices:
        found.append(Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    if rest:
        found.append(AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak"] = lr * (VECTORS if isinstance(optimizer, AdamW) else 1.0)
    return found


def rate(step: int, steps: int, warmup: float, decay: float) -> float:
    """The learning rate at a step as a share of its peak: up, flat, then linearly to 0."""
    rise = (step + 1) / max(1.0, warmup * steps)
    fall = (steps - step) / max(1.0, decay * steps)
    return min(1.0, rise, fall)


def set_rate(optimizers: Iterable[Optimizer], share: float) -> None:
    """Sets every group's learning rate to a share of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak"]


def clip(optimizers: Iterable[Optimizer], most: float) -> torch.Tensor:
    """Scales the gradients of all parameters so that their joint norm is at most `most`."""
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    return nn.utils.clip_grad_norm_(parameters, most)
