"""What a trial's next-token distributions say beside the dense model's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from indexer_lab.quality.forward import replay_alone
from indexer_lab.quality.trial import Trial
from indexer_probes.steering import steer

NAN = float("nan")
BLANK = {"score": NAN, "nll": NAN, "delta_nll": NAN, "kl": NAN, "agreement": NAN}


def compare(logs: Tensor, truth: Tensor, tokens: list[int]) -> dict[str, float]:
    """Nats per token of `tokens`, and how far `logs` is from `truth`, means over the tokens.

    logs, truth: float32 [token, vocabulary] log-probabilities, of the trial and of the dense model.
    """
    place = torch.tensor(tokens, device=logs.device)[:, None]
    nll, dense = -logs.gather(1, place).mean(), -truth.gather(1, place).mean()
    kl = (truth.exp() * (truth - logs)).nan_to_num(nan=0.0, posinf=torch.inf).sum(-1).mean()
    agreement = (logs.argmax(-1) == truth.argmax(-1)).float().mean()
    return {
        "nll": float(nll),
        "delta_nll": float(nll - dense),
        "kl": float(kl),
        "agreement": float(agreement),
    }


def forced(model: Any, trial: Trial, ids: Tensor, tokens: list[int]) -> Tensor:
    """float32 [token, vocabulary]: what predicts each of `tokens` after `ids` under a trial."""
    with steer(model, trial.choose(), trial.layers, trial.first(len(ids))):
        return replay_alone(model, ids, tokens)
