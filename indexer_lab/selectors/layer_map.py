"""Which layer of a small model attends most like each layer of a large one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOOR = 1e-12
"""A probability that the draft gives to any key at least, so that one zero does not decide."""


def likeness(verify: Sequence[Tensor], draft: Sequence[Tensor]) -> Tensor:
    """float64 [draft layer, verify layer]: -KL(A_verify || A_draft), the mean over queries, nats.

    verify, draft: float32 [query, key] each, distributions over the same keys; one a layer.
    """
    return torch.tensor([[-_divergence(of, by) for of in verify] for by in draft]).double()


def _divergence(of: Tensor, by: Tensor) -> float:
    of, by = of.double(), by.double().clamp(min=FLOOR)
    return float((torch.xlogy(of, of) - of * by.log()).sum(-1).mean())


def layer_map(likeness: Tensor) -> list[int]:
    """For each verify layer its draft layer, never earlier than that of the layer before; of all
    such maps the one with the greatest sum of likeness. Among equals the earliest draft layers.

    likeness: [draft layer, verify layer].
    Source: SpecAttn (arXiv 2510.27641).
    """
    drafts, layers = likeness.shape
    best = torch.full((layers, drafts), float("-inf"), dtype=torch.float64)
    came = torch.zeros(layers, drafts, dtype=torch.int64)
    best[0] = likeness[:, 0]
    for layer in range(1, layers):
        for draft in range(drafts):
            before = int(best[layer - 1, : draft + 1].argmax())
            came[layer, draft] = before
            best[layer, draft] = best[layer - 1, before] + likeness[draft, layer]
    mapped = [int(best[-1].argmax())]
    for layer in range(layers - 1, 0, -1):
        mapped.append(int(came[layer, mapped[-1]]))
    return mapped[::-1]
