"""DeepSeek-V4: a window of tokens beside compressed entries, which an indexer selects or which are
all attended to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from indexer_probes import units
from indexer_probes.errors import ProbeError
from indexer_probes.families.base import Attention, AttentionCall, Family, own
from indexer_probes.records import Entries, LatentKeys, Layout, MaskRule, PlainKeys


class DeepseekV4(Family):
    """A token's keys are its own inside the window, and those of the entries made of it."""

    reads_mask = True
    float_mask = True
    folds = True
    selects_units = True
    no_decoding = "its cache drops the tokens that left the window, and a capture keeps every key"

    def is_attention(self, module: nn.Module) -> bool:
        return hasattr(module, "o_b_proj") and hasattr(module, "sinks")

    def mask(self, attention: Attention) -> MaskRule:
        sinks = attention.sinks.detach().float().clone()
        return MaskRule(window=attention.sliding_window, sinks=sinks)

    def indexer(self, attention: Attention) -> nn.Module | None:
        indexer: nn.Module | None = getattr(attention.compressor, "indexer", None)
        return indexer

    def layout(self, attention: Attention, indexer: Any) -> Layout:
        return Layout()

    def spans(self, indexer: Any, units_scored: int, keys: Tensor) -> Tensor:
        return units.overlapping(units_scored, int(indexer.compress_rate), device=keys.device)

    def entry_count(self, call: AttentionCall) -> int:
        """Tokens attend through their own keys, so what exceeds the queries is compressed."""
        extra = call.keys.shape[2] - call.rows
        compressor = call.attention.compressor
        expected = 0 if compressor is None else call.rows // compressor.compress_rate
        if extra != expected:
            raise ProbeError(
                f"{extra} keys beside those of {call.rows} tokens, expected {expected} compressed "
                "ones: this family's cache drops tokens, so pass use_cache=False"
            )
        return extra

    def entries(self, call: AttentionCall, values: bool) -> Entries | None:
        if not call.entries:
            return None
        rate = int(call.attention.compressor.compress_rate)
        if self.indexer(call.attention) is None:
            spans = units.tiled(call.entries * rate, rate, whole=True, device=call.keys.device)
        else:
            spans = units.overlapping(call.entries, rate, device=call.keys.device)
        kept = own(call.values[0, :, call.length :]) if values else None
        return Entries(own(call.keys[0, :, call.length :]), spans, kept)

    def keys(
        self, call: AttentionCall, heard: Mapping[str, Tensor], values: bool
    ) -> PlainKeys | LatentKeys:
        kept = own(call.values[0, :, : call.length]) if values else None
        return PlainKeys(own(call.keys[0, :, : call.length]), kept)


FAMILY = DeepseekV4("one key head, a window and sinks, native indexer over compressed entries")
