"""A checkpoint as a model that is walked through layer by layer, the next one read meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from indexer_probes.families import family_of
from indexer_probes.loading import device_of, dtype_of, load_config
from indexer_probes.session import attention_layers
from indexer_probes.streaming.checkpoint import Checkpoint, checkpoint_folder, open_checkpoint
from indexer_probes.streaming.filling import fill
from indexer_probes.streaming.fp8 import FLOAT8
from indexer_probes.streaming.parts import Parts, parts_of
from indexer_probes.streaming.reading import Bytes, Reader
from indexer_probes.streaming.skeleton import EMBEDDING, TRUNK, Part, Skeleton, skeleton
from indexer_probes.streaming.walking import run_layer


@dataclass
class LayerTimes:
    """What one layer took. read: the disk alone; waited: of that, what nothing else could hide."""

    layer: int
    bytes: int
    read_seconds: float
    waited_seconds: float
    fill_seconds: float = 0.0
    compute_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """From the layer before to this one's end."""
        return self.waited_seconds + self.fill_seconds + self.compute_seconds


@dataclass(frozen=True)
class StreamedModel:
    """What a model is to a capture, without its weights in memory.

    config, dtype, device: as a loaded model's.
    """

    checkpoint: Checkpoint
    frame: Skeleton
    parts: Parts
    times: list[LayerTimes] = field(default_factory=list)

    @property
    def config(self) -> PretrainedConfig:
        return self.frame.model.config

    @property
    def dtype(self) -> torch.dtype:
        return self.frame.dtype

    @property
    def device(self) -> torch.device:
        return self.frame.device

    @property
    def module(self) -> nn.Module:
        """The model that probes attach to; only the layer at hand has weights."""
        return self.frame.model

    def shares(self, layer: int) -> bool:
        """Whether a layer's selection may serve later layers, or is an earlier one's."""
        family, attentions = family_of(self.config.model_type), self._attentions
        if not any(family.reuses(each) for each in attentions.values()):
            return False
        own = layer in attentions and family.indexer(attentions[layer]) is not None
        return own or self.reuses(layer)

    def reuses(self, layer: int) -> bool:
        """Whether a layer has no indexer and attends to an earlier layer's selection."""
        family, attentions = family_of(self.config.model_type), self._attentions
        return layer in attentions and family.reuses(attentions[layer])

    @cached_property
    def _attentions(self) -> dict[int, nn.Module]:
        return {layer: attention for attention, layer in attention_layers(self.module).items()}

    def layers(self, first: int, last: int) -> Iterator[int]:
        """The numbers of these layers; each has its weights until the next one is asked for.

        The last step's weights are freed, and the times kept, also when the caller stops early.
        """
        filled: set[Part] = set()
        try:
            with Reader(pinned=self.device.type == "cuda") as reader:
                ahead = reader.read(self._entries(first, first))
                for number in range(first, last + 1):
                    began = time.perf_counter()
                    read: Bytes = ahead.result()
                    waited = time.perf_counter() - began
                    filled |= set(self._parts(number, first))
                    fill(self.frame, self.parts, read.tensors)
                    took = LayerTimes(number, read.size, read.seconds, waited)
                    del read
                    if number < last:
                        ahead = reader.read(self._entries(number + 1, first))
                    started = time.perf_counter()
                    took.fill_seconds = started - began - waited
                    yield number
                    took.compute_seconds = time.perf_counter() - started
                    self.times.append(took)
                    self._empty(filled, {TRUNK})
        finally:
            self._empty(filled, set())

    def run(self, number: int, ids: Tensor, before: Any) -> Any:
        """What the layer at hand gives for a prompt (int64 [token]); see `run_layer`."""
        return run_layer(self.frame, number, ids[None].to(self.device), before)

    def _parts(self, number: int, first: int) -> list[Part]:
        more: list[Part] = [TRUNK] if number == first else []
        return [*more, *([EMBEDDING] if number == 0 else []), number]

    def _entries(self, number: int, first: int) -> list[Any]:
        return [entry for part in self._parts(number, first) for entry in self.parts.entries(part)]

    def _empty(self, filled: set[Part], kept: set[Part]) -> None:
        for part in filled - kept:
            self.frame.empty(part)
        filled &= kept


def open_model(
    name: str,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
) -> StreamedModel:
    """A model to stream, its whole checkpoint proven to fit its configuration; see `load_model`.

    Raises ProbeError, in one line, for whatever the caller can mend. Nothing is downloaded.
    """
    place = device_of(device)
    folder = checkpoint_folder(name, revision)
    config = load_config(str(folder), None, trust_remote_code)
    checkpoint = open_checkpoint(folder)
    kind = _kind(dtype_of(dtype), config, checkpoint)
    frame = skeleton(config, kind, place, trust_remote_code)
    return StreamedModel(checkpoint, frame, parts_of(checkpoint, frame))


def _kind(
    asked: str | torch.dtype, config: PretrainedConfig, checkpoint: Checkpoint
) -> torch.dtype:
    """The dtype to compute in: the one asked for, else the configuration's, else the first that
    the checkpoint stores its unquantised weights in."""
    if isinstance(asked, torch.dtype):
        return asked
    if isinstance(stated := getattr(config, "dtype", None), torch.dtype):
        return stated
    stored = (entry.dtype for entry in checkpoint.entries.values())
    real = (kind for kind in stored if kind.is_floating_point and kind not in FLOAT8)
    return next(real, torch.bfloat16)
