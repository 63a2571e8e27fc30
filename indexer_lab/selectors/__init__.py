"""Every selector the project knows: one file each, one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from indexer_lab.selectors.base import Selector
from indexer_lab.selectors.dial import Dial
from indexer_lab.selectors.exact import Exact
from indexer_lab.selectors.faiss_index import Faiss
from indexer_lab.selectors.lightning import Lightning
from indexer_lab.selectors.native import Native
from indexer_lab.selectors.quantised import Quantised
from indexer_lab.selectors.random import Random
from indexer_lab.selectors.recorded import Recorded
from indexer_lab.selectors.settings import build
from indexer_lab.selectors.sink_recent import SinkRecent

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
}


__all__ = ["SELECTORS", "Selector", "selector"]


def selector(text: str) -> Selector:
    """The selector that a command line spells, `name:setting=value`. Raises InputError."""
    made: Selector = build("selector", text, SELECTORS)
    return made
