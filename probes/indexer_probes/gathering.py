"""Under tensor parallelism each process sees some of the heads: puts the whole record together.

transformers spreads the query and key heads of a layer evenly, neighbouring heads in one process;
what all heads share (MLA's latents, the indexer) every process computes whole.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from indexer_probes.errors import ProbeError
from indexer_probes.records import LatentKeys, LayerRecord, PlainKeys, Witness


class Gathering:
    """What a capture of a spread model needs to know. heads, index_heads: of the whole model."""

    def __init__(self, heads: int, key_heads: int, index_heads: int | None):
        self.heads = heads
        self.key_heads = key_heads
        self.index_heads = index_heads

    def whole(self, record: LayerRecord) -> LayerRecord | None:
        """The record over all heads in process 0, None in the others; all must call it together.

        Raises ProbeError, in every process, when the parts do not add up to the model's heads.
        """
        self._refuse_other_parts(record)
        parts = dist.get_world_size()
        keys: PlainKeys | LatentKeys
        if record.heads == self.heads:  # this layer is not spread
            return record if dist.get_rank() == 0 else None
        queries = _joined(record.queries, parts)
        if isinstance(record.keys, PlainKeys):
            keys = PlainKeys(*(_joined(part, parts) for part in _plain(record.keys)))
        else:
            up = [_joined(part, parts) for part in _up(record.keys)]
            keys = LatentKeys(record.keys.latent, record.keys.rope, *up)
        mask = record.mask
        if mask.sinks is not None and len(mask.sinks) != self.heads:
            mask = replace(mask, sinks=_joined(mask.sinks, parts))
        witness = record.witness
        if witness is not None:
            witness = Witness(witness.rows, _joined(witness.weights, parts))
        if dist.get_rank():
            return None
        return replace(record, queries=queries, keys=keys, mask=mask, witness=witness)

    def _refuse_other_parts(self, record: LayerRecord) -> None:
        parts = dist.get_world_size()
        held = {"query heads": (record.heads, self.heads)}
        held["key heads"] = (record.keys.heads, self.key_heads)
        for what, (here, total) in held.items():
            if here not in (total, total // parts):
                raise ProbeError(
                    f"layer {record.layer}: this process holds {here} of {total} {what}, which is "
                    f"no even part of {parts} processes; capture without --tensor-parallel"
                )
        if (record.heads == self.heads) != (record.keys.heads == self.key_heads):
            raise ProbeError(
                f"layer {record.layer}: its query heads are spread over the processes and its key "
                "heads are not; capture without --tensor-parallel"
            )
        if record.entries is not None and record.heads != self.heads:
            raise ProbeError(
                f"layer {record.layer}: how compressed entries are spread over processes is not "
                "known; capture without --tensor-parallel"
            )
        if record.indexer is not None and record.indexer.queries.shape[0] != self.index_heads:
            raise ProbeError(
                f"layer {record.layer}: this process holds {record.indexer.queries.shape[0]} of "
                f"{self.index_heads} index heads, and no process sees the whole score; capture "
                "without --tensor-parallel"
            )


def gathering_of(model: nn.Module) -> Gathering | None:
    """How this model's records are put together; None when one process holds all of it."""
    if getattr(model, "_tp_size", None) in (None, 1):
        return None
    config: Any = model.config
    text = config.get_text_config()
    heads = text.num_attention_heads
    latent = getattr(text, "kv_lora_rank", None)
    key_heads = heads if latent else getattr(text, "num_key_value_heads", None) or heads
    return Gathering(heads, key_heads, getattr(text, "index_n_heads", None))


def _plain(keys: PlainKeys) -> list[Tensor]:
    return [part for part in (keys.plain_keys, keys.plain_values) if part is not None]


def _up(keys: LatentKeys) -> list[Tensor]:
    return [part for part in (keys.up_keys, keys.up_values) if part is not None]


def _joined(part: Tensor, parts: int) -> Tensor:
    """All processes' parts along the first axis in process 0; any tensor in the others."""
    part = part.contiguous()
    if dist.get_rank():
        dist.gather(part, dst=0)
        return part
    found = [torch.empty_like(part) for _ in range(parts)]
    dist.gather(part, found, dst=0)
    return torch.cat(found)
