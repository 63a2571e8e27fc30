"""A family nobody wrote a file for: read off its modules, and believed only once it is proven."""

from __future__ import annotations

from typing import Any

from torch import nn

from indexer_probes.families.base import Attention, Family
from indexer_probes.families.latent import Latent
from indexer_probes.records import MaskRule

WINDOWS = ("the module's own window", "the configuration's window by layer type", "no window")


class Dense(Family):
    """Attention through transformers' interface, all keys or a window, with or without sinks.

    windows: one of WINDOWS, where a layer's window is read.
    """

    samples_mask = True

    def __init__(self, note: str, windows: str):
        super().__init__(f"{note}, {windows}")
        self._windows = windows

    def is_attention(self, module: nn.Module) -> bool:
        return hasattr(module, "scaling")

    def mask(self, attention: Attention) -> MaskRule:
        sinks = getattr(attention, "sinks", None)
        return MaskRule(
            window=self._window(attention),
            sinks=None if sinks is None else sinks.detach().float().clone(),
        )

    def _window(self, attention: Attention) -> int | None:
        own, named, _ = WINDOWS
        config: Any = attention.config
        found: int | None = None
        if self._windows == own:
            found = getattr(attention, "sliding_window", None)
        elif self._windows == named:
            kinds = getattr(config, "layer_types", None)
            if kinds is None or kinds[attention.layer_idx] == "sliding_attention":
                found = getattr(config, "sliding_window", None)
        return found


class DenseIndexed(Dense):
    """The same with an indexer over tokens in some layers."""

    reads_mask = True
    samples_mask = False

    def indexer(self, attention: Attention) -> nn.Module | None:
        indexer: nn.Module | None = getattr(attention, "indexer", None)
        return indexer

    def reuses(self, attention: Attention) -> bool:
        return bool(getattr(attention, "skip_topk", False))


class LatentDense(Latent):
    """Latent attention without an indexer."""

    reads_mask = False
    samples_mask = True


def candidates(model: nn.Module) -> list[Family]:
    """What a model may be, by the modules that it has, the likeliest first."""
    modules = list(model.modules())
    indexed = any(getattr(module, "indexer", None) is not None for module in modules)
    found: list[Family] = []
    if any(hasattr(module, "kv_b_proj") for module in modules):
        note = "latent keys"
        found += [Latent(f"{note}, native indexer over tokens")] if indexed else [LatentDense(note)]
    if indexed:
        return [*found, *(DenseIndexed("native indexer over tokens", each) for each in WINDOWS)]
    return [*found, *(Dense("dense", each) for each in WINDOWS)]
