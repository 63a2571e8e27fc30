"""A deepseek_v32 model whose indexer is out of the way, or in training.

transformers runs the indexer without gradients and builds its scores for all queries at once.
Here its forward is replaced within a block; its weights are used by `indexer_loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from indexer_lab.errors import InputError

PARTS = ("wq_b", "wk", "k_norm", "weights_proj")


def indexers_of(model: nn.Module) -> list[nn.Module]:
    """The Lightning Indexers of a model, layer by layer; [] when it has none."""
    return [
        module
        for name, module in model.named_modules()
        if name.endswith("indexer") and all(hasattr(module, part) for part in PARTS)
    ]


def require_indexers(model: nn.Module) -> list[nn.Module]:
    """As `indexers_of`, but a model without any is the user's mistake."""
    found = indexers_of(model)
    if not found:
        raise InputError(
            f"{type(model).__name__} has no Lightning Indexer: indexer training needs a "
            "deepseek_v32 checkpoint"
        )
    return found


def no_mask(model: PreTrainedModel) -> Any:
    """What to pass as attention_mask so that no [query, key] mask is built for causal input."""
    if indexers_of(model):
        return masks(model, torch.zeros(1, 1, 1, 1, device=model.device))
    return None


def masks(model: PreTrainedModel, mask: Tensor) -> dict[str, Tensor]:
    """One mask for every kind of layer; transformers' releases name the kinds differently."""
    return dict.fromkeys(model.config.layer_types, mask)


@contextmanager
def replaced_indexers(
    indexers: list[nn.Module], forward: Callable[..., Tensor] | None = None
) -> Iterator[None]:
    """Within the block every indexer's forward is `forward(indexer, hidden, q_resid, rope)`.

    Without one the indexers do nothing; what they return is ignored by our attention functions.
    """
    for indexer in indexers:
        indexer.forward = _bound(indexer, forward) if forward else nothing
    try:
        yield
    finally:
        for indexer in indexers:
            del indexer.forward


def nothing(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    """An indexer that selects nothing: one function for all layers, so that they compile as one."""
    return torch.zeros(1, 1, 1, dtype=torch.int32, device=hidden.device)


def _bound(indexer: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(hidden: Tensor, q_resid: Tensor, rope: Any, *_: Any, **__: Any) -> Tensor:
        return forward(indexer, hidden, q_resid, rope)

    return run
