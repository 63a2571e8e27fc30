"""Selectors along a running sequence: what is built on the prompt is kept and extended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import torch

from indexer_lab.selectors.base import Ranker, Selector
from indexer_probes.records import LatentKeys, LayerRecord, PlainKeys

State = TypeVar("State")


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


class Calibrated(Protocol[State]):
    """A selector that first learns something of a record, then ranks any record with it."""

    def calibrate(self, record: LayerRecord) -> State: ...

    def fitted(self, record: LayerRecord, calibrated: State) -> Ranker: ...


@dataclass(frozen=True)
class CalibratedFollower(Generic[State]):
    """Calibrates each layer once, on the prompt, and keeps that for all that follows it.

    known: layer -> what was learnt; shared by every continuation of the prompt.
    The prompt is what the first query sees, with that query alone; a first record that begins at
    position 0 is a prefill, and calibrates on all of its keys and queries.
    """

    selector: Calibrated[State]
    known: dict[int, State] = field(default_factory=dict)

    def fit(self, record: LayerRecord) -> Ranker:
        if record.layer not in self.known:
            self.known[record.layer] = self.selector.calibrate(_prompt(record))
        return self.selector.fitted(record, self.known[record.layer])

    def again(self) -> CalibratedFollower[State]:
        return self


def _prompt(record: LayerRecord) -> LayerRecord:
    first = int(record.positions[0])
    if first == 0:
        return record
    one = record.at(torch.zeros(1, dtype=torch.int64, device=record.positions.device))
    return replace(one, keys=_cut(record.keys, first + 1))


def _cut(keys: PlainKeys | LatentKeys, count: int) -> PlainKeys | LatentKeys:
    """The first `count` keys."""
    if isinstance(keys, PlainKeys):
        return PlainKeys(keys.plain_keys[:, :count])
    return replace(keys, latent=keys.latent[:count], rope=keys.rope[:count])
