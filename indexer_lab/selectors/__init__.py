"""Every selector the project knows: one file each, one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from indexer_lab.backend import Backend
from indexer_lab.selectors.base import Selector
from indexer_lab.selectors.block_mean import BlockMean
from indexer_lab.selectors.dial import Dial
from indexer_lab.selectors.double_sparsity import DoubleSparsity
from indexer_lab.selectors.exact import Exact
from indexer_lab.selectors.faiss_index import Faiss
from indexer_lab.selectors.faulty import Faulty
from indexer_lab.selectors.hierarchical import Hierarchical
from indexer_lab.selectors.index_heads import IndexHeads
from indexer_lab.selectors.lightning import Lightning
from indexer_lab.selectors.loki import Loki
from indexer_lab.selectors.native import Native
from indexer_lab.selectors.quantised import Quantised
from indexer_lab.selectors.quest import Quest
from indexer_lab.selectors.random import Random
from indexer_lab.selectors.recorded import Recorded
from indexer_lab.selectors.retro import Retro
from indexer_lab.selectors.reuse import Reuse
from indexer_lab.selectors.settings import build
from indexer_lab.selectors.sink_recent import SinkRecent
from indexer_lab.selectors.sp_attention import SPAttention
from indexer_lab.selectors.sparq import Sparq
from indexer_lab.selectors.spec_attn import SpecAttn

SELECTORS: dict[str, Callable[..., Any]] = {
    "exact": Exact,
    "dial": Dial,
    "random": Random,
    "sink_recent": SinkRecent,
    "native": Native,
    "lightning": Lightning,
    "quantised": Quantised,
    "faiss": Faiss,
    "recorded": Recorded,
    "quest": Quest,
    "block_mean": BlockMean,
    "hierarchical": Hierarchical,
    "sparq": Sparq,
    "loki": Loki,
    "double_sparsity": DoubleSparsity,
    "reuse": Reuse,
    "index_heads": IndexHeads,
    "sp_attention": SPAttention,
    "retro": Retro,
    "spec_attn": SpecAttn,
    "faulty": Faulty,
}


__all__ = ["SELECTORS", "Selector", "on_backend", "selector"]


def selector(text: str) -> Selector:
    """The selector that a command line spells, `name:setting=value`. Raises InputError."""
    made: Selector = build("selector", text, SELECTORS)
    return made


def on_backend(chosen: Selector, backend: Backend) -> Selector:
    """The selector on this backend, where it has one and its spelling left it open."""
    settings: Any = chosen
    if getattr(settings, "backend", None) != "auto":
        return chosen
    on_it: Selector = replace(settings, backend=backend)
    return on_it
