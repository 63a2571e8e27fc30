"""Every selector the project knows: one file each, one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from indexer_lab.selectors.base import Selector
from indexer_lab.selectors.exact import Exact
from indexer_lab.selectors.settings import build

SELECTORS: dict[str, Callable[..., Any]] = {
    "exact": Exact,
}


__all__ = ["SELECTORS", "Selector", "selector"]


def selector(text: str) -> Selector:
    """The selector that a command line spells, `name:setting=value`. Raises InputError."""
    made: Selector = build("selector", text, SELECTORS)
    return made
