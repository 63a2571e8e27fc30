"""What a quality run asks, one trial at a time: mode, selector, budget and layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.quality.decoding import own_decoding
from indexer_lab.selectors import selector
from indexer_lab.selectors.base import every_key
from indexer_lab.selectors.following import Follower, follower
from indexer_lab.selectors.reuse import source
from indexer_probes.records import LayerRecord
from indexer_probes.steering import Choose

BASELINES = ("exact", "random", "sink_recent")
DENSE = "dense"
ALL_LAYERS = -1
MODES = {
    "replay": "teacher-forced on the dense run's tokens; prompt dense, the rest sparse",
    "decode": "the model's own greedy tokens; prompt dense, the rest sparse",
    "prefill+decode": "the model's own greedy tokens; everything sparse",
}
"""Mode -> what it does. The last prompt token's query, the one that answers, is sparse in all."""


@dataclass(frozen=True)
class Trial:
    """One way to run a sample. layer: the only one to select in, or ALL_LAYERS.

    The dense trial has budget 0 and selects nowhere.
    """

    mode: str
    selector: str
    budget: int
    layer: int = ALL_LAYERS

    @property
    def layers(self) -> tuple[int, ...] | None:
        """What `steer` is to hand over: where to select, and the layer that it takes over."""
        if self.selector == DENSE:
            return ()
        if self.layer == ALL_LAYERS:
            return None
        return tuple({source(selector(self.selector), self.layer), self.layer})

    @property
    def own_prompt(self) -> bool:
        """Whether the prompt is sparse too, and so the trial's own."""
        return self.mode == "prefill+decode" and self.selector != DENSE

    def first(self, prompt: int) -> int:
        """The first sparse position of a prompt of that many tokens, read in one forward."""
        return 0 if self.mode == "prefill+decode" else prompt - 1

    def choose(self, along: Follower | None = None) -> Choose:
        """The selector on the live records of one sequence, at this budget.

        along: the selector where it is to keep what it built on another run's prompt.
        Raises InputError for one that decodes in its own way and is not given.
        """
        made = along or follower(selector("exact" if self.selector == DENSE else self.selector))
        if along is None and own_decoding(made) is not None:
            raise InputError(
                f"selector {self.selector!r} decodes in its own way, and a published benchmark "
                "decodes by itself; run it on this project's own tasks"
            )

        def pick(record: LayerRecord) -> Tensor:
            ranker = made.fit(record)
            if self.layer in (ALL_LAYERS, record.layer):
                return ranker.top(self.budget)
            return every_key(record)

        return pick


@dataclass(frozen=True)
class Protocol:
    """What one run asks of every sample.

    selectors: as spelled on the command line.
    swaps:     layers to select in one at a time, beside all at once.
    tokens:    at most this many are generated, or replayed; a text brings its own.
    baselines: whether BASELINES run too, as for every user; a study may run them elsewhere.
    """

    modes: tuple[str, ...]
    selectors: tuple[str, ...]
    budgets: tuple[int, ...]
    swaps: tuple[int, ...]
    tokens: int
    baselines: bool = True

    def labels(self) -> list[str]:
        """Every selector to run, baselines first, each once."""
        first = BASELINES if self.baselines else ()
        return list(dict.fromkeys((*first, *self.selectors)))

    def trials(self) -> Iterator[Trial]:
        """Every trial, dense first in its mode."""
        for mode in self.modes:
            yield Trial(mode, DENSE, 0)
            for label in self.labels():
                for budget in self.budgets:
                    for layer in (ALL_LAYERS, *self.swaps):
                        yield Trial(mode, label, budget, layer)
