"""lm-eval's own transformers model, running under the attention of a trial.

lm-eval encodes, pads, truncates, stops and decodes; only the two places where it calls the model
are ours, and each is called with the token ids that lm-eval made.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import DynamicCache

from indexer_lab.quality.trial import DENSE, Trial
from indexer_probes.steering import steer

UNBOUNDED = 1 << 30


@dataclass(frozen=True)
class Heard:
    """One continuation that went through the model.

    ids:  int64 [token], the prompt, on the CPU; None where a continuation was scored.
    nats: what a scored continuation costs, in nats.
    rows: float32 [token, vocabulary] log-probabilities of a scored continuation; None where they
          would be as long as the text.
    """

    tokens: list[int]
    ids: Tensor | None = None
    nats: float = 0.0
    rows: Tensor | None = None


class Steered(HFLM):  # type: ignore[misc]
    """HFLM under a trial. One sequence at a time: a steered model takes no padding.

    trial: what the next requests run under. heard: what went through the model since it was
    emptied. seed: of a task that samples, the same for every trial.
    """

    def __init__(self, model: Any, tokenizer: Any, limit: int | None, seed: int = 0):
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=1,
            max_length=limit or UNBOUNDED,
        )
        self.trial = Trial("decode", DENSE, 0)
        self.heard: list[Heard] = []
        self._seed = seed
        self._scored = 1
        self._keeps = True
        self._rows: Tensor | None = None

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Whole texts: their log-probabilities over the vocabulary are not kept."""
        self._keeps = False
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self._keeps = True

    def _model_generate(self, context: Tensor, max_length: int, stop: Any, **given: Any) -> Tensor:
        prompt = context.shape[1]
        torch.manual_seed(self._seed)
        with self._open(prompt):
            made: Tensor = super()._model_generate(
                context, max_length, stop, past_key_values=_cache(self.model), **given
            )
        self.heard.append(Heard(made[0, prompt:].tolist(), ids=context[0].cpu()))
        return made

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> Any:
        """lm-eval's, one forward at a time, so that the model call knows where a prompt ends.

        Continuations that differ in their last token alone share a forward, as in lm-eval.
        """
        forwards = defaultdict(list)
        for place, (_, context, continuation) in enumerate(requests):
            forwards[tuple(context), tuple(continuation[:-1])].append(place)
        answers = [None] * len(requests)
        for places in forwards.values():
            self._scored = len(requests[places[0]][2])
            part = super()._loglikelihood_tokens([requests[place] for place in places], True)
            for place, answer in zip(places, part, strict=True):
                answers[place] = answer
                tokens = list(requests[place][2])
                self.heard.append(Heard(tokens, nats=-answer[0], rows=self._rows))
        return answers

    def _model_call(self, inps: Tensor, attn_mask: Any = None, labels: Any = None) -> Tensor:
        """The logits that predict the continuation: the others are never asked for."""
        with self._open(inps.shape[1] - self._scored + 1), torch.inference_mode():
            output = self.model(input_ids=inps, use_cache=False, logits_to_keep=self._scored)
        logits: Tensor = output.logits
        self._rows = logits[0].float().log_softmax(-1) if self._keeps else None
        return logits

    def _open(self, prompt: int) -> Any:
        """The trial's attention, for a prompt of that many tokens."""
        trial = self.trial
        return steer(self.model, trial.choose(), trial.layers, trial.first(prompt))


def _cache(model: Any) -> DynamicCache:
    """A cache that drops nothing: only an indexer's keys need the configuration's own layers."""
    indexed = any(hasattr(module, "indexer") for module in model.modules())
    return DynamicCache(config=model.config) if indexed else DynamicCache()
