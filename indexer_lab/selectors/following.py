"""Selectors along a running sequence: what is built on the prompt is kept and extended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from indexer_lab.selectors.base import Ranker, Selector
from indexer_probes.records import LayerRecord


class Follower(Protocol):
    """A selector that goes with one sequence, forward by forward, all layers."""

    def fit(self, record: LayerRecord) -> Ranker:
        """A ranker of the queries of this forward; the record holds every key so far."""
        ...

    def again(self) -> Follower:
        """A follower of another continuation of the same prompt, which was prefilled densely."""
        ...


def follower(selector: Selector) -> Follower:
    """The selector's own follower; where it builds nothing worth keeping, itself at each step."""
    own = getattr(selector, "follow", None)
    return Anew(selector) if own is None else own()


@dataclass(frozen=True)
class Anew:
    """Fits each record for itself."""

    selector: Selector

    def fit(self, record: LayerRecord) -> Ranker:
        return self.selector.fit(record)

    def again(self) -> Follower:
        return self
