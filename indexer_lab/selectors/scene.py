"""Where a record comes from, for the few selectors that must know more than the record holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from indexer_lab.selectors.base import Selector
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Scene:
    """sample: its id. layer: the same sample's record of another layer, same queries and device."""

    sample: str
    layer: Callable[[int], LayerRecord]


def within(chosen: Selector, scene: Scene) -> Selector:
    """The selector in this scene, where its kind looks around; else itself."""
    look_around = getattr(chosen, "within", None)
    if look_around is None:
        return chosen
    placed: Selector = look_around(scene)
    return placed
