"""What a probe must know of a model family, and how a plain dense family answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from indexer_probes.errors import ProbeError
from indexer_probes.records import Entries, LatentKeys, Layout, MaskRule, PlainKeys

if TYPE_CHECKING:
    from indexer_probes.indexer import Watch

Attention = Any
"""An attention module of transformers; they share no base class that names their attributes."""


@dataclass(frozen=True)
class AttentionCall:
    """One call of an attention function, as the model made it.

    attention: the attention module.
    queries:   [1, head, query, dim], after RoPE.
    keys:      [1, kv_head, key, dim], after RoPE, those of a cache included.
    values:    [1, kv_head, key, value_dim]
    scale:     factor on q.k
    indices:   int [set, query, k], the native selection, negative where it has fewer; None for a
               dense layer.
    width:     neighbouring tokens that each index stands for.
    extra:     what else the model handed over, for its own eager function.
    sequence:  which sequence of the model's batch this is.
    kept:      bool [1, query, key], all that the model lets each query see where it folds its
               selection into the mask; None where it does not.
    entries:   compressed keys at the end of `keys`, which belong to no one token.
    """

    attention: Attention
    queries: Tensor
    keys: Tensor
    values: Tensor
    scale: float
    indices: Tensor | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    sequence: int = 0
    kept: Tensor | None = None
    entries: int = 0
    width: int = 1

    @property
    def length(self) -> int:
        """Keys of tokens, which equals the tokens seen so far."""
        return self.keys.shape[2] - self.entries

    @property
    def dense(self) -> AttentionCall:
        """The same call without its native selection."""
        return replace(self, indices=None, kept=None)

    @property
    def rows(self) -> int:
        return self.queries.shape[2]

    @property
    def first(self) -> int:
        """Position of the first query."""
        return self.length - self.rows


class Family:
    """A dense family that attends to every earlier token; the others override what differs.

    reads_mask:    the model looks into its attention mask itself, so it must be given one.
    samples_mask:  the mask is only handed through, so some of its rows are made, which a call holds
                   against the rule: for families that nobody looked at.
    float_mask:    that mask must be zeros and -inf, not booleans.
    folds:         the mask that attention gets holds the native selection.
    selects_units: its indexer selects more than single tokens.
    no_decoding:   why steps behind a cache cannot be captured, None where they can.
    """

    reads_mask = False
    samples_mask = False
    float_mask = False
    folds = False
    selects_units = False
    no_decoding: str | None = None

    def __init__(self, note: str):
        self.note = note

    def refusal(self, attention: Attention) -> str | None:
        """Why this attention module cannot be captured, or None when it can."""
        return None

    def mask(self, attention: Attention) -> MaskRule:
        return MaskRule()

    def indexer(self, attention: Attention) -> nn.Module | None:
        """The module that selects keys, or None in a dense layer."""
        return None

    def is_attention(self, module: nn.Module) -> bool:
        """Whether a module with a layer number is softmax attention of this family."""
        return hasattr(module, "o_proj")

    def reuses(self, attention: Attention) -> bool:
        """Whether this layer has no indexer and attends to an earlier layer's selection."""
        return False

    def watch(self, indexer: nn.Module, layer: int) -> Watch:
        """What to enter around a forward of the indexer to take its operands."""
        from indexer_probes.variants import SumWatch

        return SumWatch(layer)

    def turns(self, indexer: nn.Module) -> Tensor | None:
        """float32 [pair]: what one position turns each rotary pair of the indexer's vectors by,
        radians; None where its pairs are not halves of its first dimensions."""
        return None

    def layout(self, attention: Attention, indexer: nn.Module) -> Layout | None:
        """What the indexer's units mean; None where they are tokens."""
        return None

    def spans(self, indexer: nn.Module, units_scored: int, keys: Tensor) -> Tensor:
        """int64 [unit, 2] of an indexer with a layout that scored so many; keys: its index keys."""
        raise NotImplementedError

    def read(self, call: AttentionCall, mask: Tensor | None) -> AttentionCall:
        """The call with the native selection where this family hands it over."""
        return call

    def entry_count(self, call: AttentionCall) -> int:
        """How many of the call's last keys are compressed entries."""
        return 0

    def entries(self, call: AttentionCall, values: bool) -> Entries | None:
        """Own copies of the compressed entries."""
        return None

    def fed(self, attention: Attention) -> dict[str, nn.Module]:
        """Modules whose inputs `keys` wants, by the name under which it reads them."""
        return {}

    def overheard(self, attention: Attention) -> dict[str, nn.Module]:
        """Modules whose outputs `keys` wants, by the name under which it reads them."""
        return {}

    def keys(
        self, call: AttentionCall, heard: Mapping[str, Tensor], values: bool
    ) -> PlainKeys | LatentKeys:
        """Own copies of the keys, and of the values when asked for."""
        return PlainKeys(own(call.keys[0]), own(call.values[0]) if values else None)


def own(tensor: Tensor) -> Tensor:
    """A detached, contiguous copy that holds no activation alive."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def weight_of(module: nn.Module) -> Tensor:
    """A linear layer's weight where the layer computes, also while accelerate keeps it elsewhere;
    under tensor parallelism this process's part of it."""
    weight: Any = module.weight
    if weight.is_meta:
        hook: Any = getattr(module, "_hf_hook", None)
        kept = getattr(hook, "weights_map", None)
        if kept is None:
            raise ProbeError("a projection's weight is on the meta device and nobody keeps it")
        return kept["weight"].to(hook.execution_device)
    return local(weight)


def local(tensor: Any) -> Tensor:
    """This process's part of a tensor that tensor parallelism spreads; any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
