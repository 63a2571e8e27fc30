"""A prompt through one decoder layer some rows at a time.

The layer's own forward runs on each chunk, in order, with something in the cache's place that hands
back a chunk's own keys and every index key so far. So nothing as long as the prompt exists but
hidden states, latents and index keys, and the indexer never scores a key after its chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from indexer_probes.attention import attend
from indexer_probes.families.base import Attention, AttentionCall
from indexer_probes.indexer import Chosen
from indexer_probes.parts import Parts
from indexer_probes.picking import Picker
from indexer_probes.records import LatentKeys

if TYPE_CHECKING:
    from indexer_probes.engine import Engine
    from indexer_probes.families import Family

ROWS = 512  # query rows at a time; each chunk scores on average half a chunk of keys in vain
ENGINE_ROWS = 2048  # the same with an engine, which wants more work a launch


@runtime_checkable
class Collector(Protocol):
    """A listener that takes a layer in parts: which positions it keeps, and what it does with them.

    engine: computes in the model's place; None leaves that to the model.
    """

    layers: tuple[int, ...]
    engine: Engine | None

    def kept(self, length: int) -> Tensor: ...

    def collected(
        self, call: AttentionCall, layer: int, keys: LatentKeys, parts: Parts
    ) -> None: ...


class Growing:
    """A tensor of known length along one axis that is filled chunk by chunk."""

    def __init__(self, length: int, axis: int):
        self._length = length
        self._axis = axis
        self._whole: Tensor | None = None
        self._filled = 0

    def add(self, part: Tensor) -> Tensor:
        """Everything so far, this part at its end."""
        count = part.shape[self._axis]
        if self._whole is None:
            if count == self._length:
                self._whole = part
                return part
            shape = list(part.shape)
            shape[self._axis] = self._length
            self._whole = part.new_empty(shape)
        self._whole.narrow(self._axis, self._filled, count).copy_(part)
        self._filled += count
        return self._whole.narrow(self._axis, 0, self._filled)


class ChunkCache:
    """In the place of a layer's cache. kept: the keys and values that it was given, if `keeps`."""

    def __init__(self, length: int, keeps: bool):
        self._index_keys = Growing(length, axis=1)
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._keeps = keeps
        self._so_far: Tensor | None = None

    def update(
        self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self._keeps:
            self._kept.append((keys, values))
        return keys, values

    def update_indexer(self, keys: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._so_far = self._index_keys.add(keys)
        return self._so_far

    def hand_over(self, cache: Any, layer: int) -> None:
        """Puts all that was given into the model's own cache."""
        keys, values = (torch.cat(parts, dim=2) for parts in zip(*self._kept, strict=True))
        cache.update(keys, values, layer)
        if self._so_far is not None:
            cache.update_indexer(self._so_far, layer)


class LayerRun:
    """One layer on one prompt: the keys so far, and what each probe keeps of it."""

    def __init__(
        self,
        family: Family,
        attention: Attention,
        layer: int,
        length: int,
        probes: Sequence[Collector],
        engine: Engine | None,
    ):
        indexer = family.indexer(attention)
        self.picker = None if engine is None or indexer is None else Picker(engine, indexer, layer)
        self._family = family
        self.layer = layer
        self._engine = engine
        self._collected = [(probe, Parts(probe.kept(length))) for probe in probes]
        self._first = 0
        self._latent, self._rope = Growing(length, axis=0), Growing(length, axis=0)
        self._keys, self._values = Growing(length, axis=2), Growing(length, axis=2)
        self._latest: tuple[AttentionCall, LatentKeys] | None = None

    def attend(
        self, call: AttentionCall, heard: dict[str, Tensor], operands: Chosen | None
    ) -> Tensor:
        """The attention output [1, query, head, value_dim] of a chunk.

        call: its keys and values are those of the chunk's own tokens.
        """
        own = self._family.latent(call, heard)
        keys = replace(own, latent=self._latent.add(own.latent), rope=self._rope.add(own.rope))
        for _, parts in self._collected:
            parts.add(call, self._first, operands)
        self._first += call.rows
        self._latest = call, keys
        if self._engine is not None and call.indices is not None:
            support = call.indices[0].long()
            return self._engine.sparse_attention(call.queries[0], keys, support, call.scale)[None]
        whole = replace(call, keys=self._keys.add(call.keys), values=self._values.add(call.values))
        return attend(whole, self._family.mask(call.attention))

    def finish(self) -> None:
        """Proves what was picked and hands the records on."""
        if self.picker is not None:
            self.picker.check()
        assert self._latest is not None
        call, keys = self._latest
        self._keys, self._values = Growing(0, axis=2), Growing(0, axis=2)  # let go of them
        for probe, parts in self._collected:
            probe.collected(call, self.layer, keys, parts)
