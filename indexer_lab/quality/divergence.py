"""What forced tokens cost under one attention, beside the dense model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 256  # tokens; a [token, vocabulary] block is large


def divergence(
    tokens: Sequence[int], logs: Tensor, truth: Tensor, encoded_bytes: int = 0
) -> dict[str, float]:
    """Means over tokens: nll, delta_nll, kl to the dense model, and agreement with its choices.

    logs, truth:   float32 [token, vocabulary], log-probabilities of this attention and of dense.
    encoded_bytes: of the text that the tokens spell, for bits_per_byte; 0 where there is none.
    A token that the vocabulary masks has probability zero in both and costs nothing.
    """
    place = torch.tensor(tokens, device=logs.device)[:, None]
    nll = -logs.gather(1, place).double()
    delta = nll + truth.gather(1, place).double()
    parts = zip(logs.split(CHUNK), truth.split(CHUNK), strict=True)
    kl = torch.cat([_kl(own, dense) for own, dense in parts]).double()
    agreement = (logs.argmax(-1) == truth.argmax(-1)).double()
    bits = float(nll.sum()) / math.log(2) / encoded_bytes if encoded_bytes else float("nan")
    return {
        "tokens": len(tokens),
        "score": float("nan"),
        "nll": float(nll.mean()),
        "delta_nll": float(delta.mean()),
        "kl": float(kl.mean()),
        "agreement": float(agreement.mean()),
        "bits_per_byte": bits,
    }


def _kl(logs: Tensor, truth: Tensor) -> Tensor:
    return (truth.exp() * (truth - logs)).nan_to_num(nan=0.0, posinf=torch.inf).sum(-1)
