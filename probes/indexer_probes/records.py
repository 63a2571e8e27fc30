"""What one layer's attention saw: the record that captures, selectors and measures share.

A record holds the stored query rows and every key of one layer for one sample. Key index equals
token position, so "position" and "key" mean the same axis. The module needs torch alone; reading a
capture never imports transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from indexer_probes import units

CHUNK_BYTES = 16 << 20  # a float32 [head, row, key] block stays under this
CUDA_CHUNK_BYTES = 256 << 20  # the same on a GPU, which a small block leaves idle


Part = TypeVar("Part", "PlainKeys | LatentKeys", "MaskRule", "IndexerRecord", "Witness", "Entries")


class RecordError(ValueError):
    """A record whose parts cannot belong together, or a request that it cannot serve."""


@dataclass(frozen=True)
class MaskRule:
    """Which keys a query may see: those at or before it, at most `window` of them.

    window: keys visible to a query, itself included; None for all.
    sinks:  float32 [head], a learned logit that joins each softmax's denominator and holds no
            value (gpt_oss); None where the family has none.
    """

    window: int | None = None
    sinks: Tensor | None = None

    def visible(self, positions: Tensor, keys: int) -> Tensor:
        """bool [query, key]: True where a query at `positions` (int64 [query]) may look."""
        key = torch.arange(keys, device=positions.device)
        distance = positions[:, None] - key[None, :]
        seen = distance >= 0
        return seen if self.window is None else seen & (distance < self.window)

    def count(self, positions: Tensor) -> Tensor:
        """int64 [query]: how many keys each query sees."""
        seen = positions + 1
        return seen if self.window is None else seen.clamp(max=self.window)


@dataclass(frozen=True)
class PlainKeys:
    """Keys (and values) as attention multiplied them, RoPE applied.

    plain_keys:   [kv_head, key, dim], the model's dtype.
    plain_values: [kv_head, key, value_dim] or None when they were not captured.
    """

    plain_keys: Tensor
    plain_values: Tensor | None = None

    @property
    def length(self) -> int:
        return self.plain_keys.shape[1]

    @property
    def heads(self) -> int:
        return self.plain_keys.shape[0]

    def keys(self) -> Tensor:
        """[kv_head, key, dim]"""
        return self.plain_keys

    def values(self) -> Tensor | None:
        """[kv_head, key, value_dim] or None"""
        return self.plain_values


@dataclass(frozen=True)
class LatentKeys:
    """Multi-head latent attention: one latent and one rotary key a token, expanded on demand.

    latent:    [key, rank], after its norm.
    rope:      [key, rope_dim], after RoPE, shared by all heads; it ends each expanded key.
    up_keys:   [head, nope_dim, rank]
    up_values: [head, value_dim, rank] or None when values were not asked for.
    """

    latent: Tensor
    rope: Tensor
    up_keys: Tensor
    up_values: Tensor | None = None

    @property
    def length(self) -> int:
        return self.latent.shape[0]

    @property
    def heads(self) -> int:
        return self.up_keys.shape[0]

    def keys(self) -> Tensor:
        """[head, key, nope_dim + rope_dim], expanded in the model's dtype as the model does."""
        nope = self._expand(self.up_keys)
        rope = self.rope[None].expand(self.heads, -1, -1)
        return torch.cat([nope, rope], dim=-1)

    def values(self) -> Tensor | None:
        """[head, key, value_dim] or None"""
        return None if self.up_values is None else self._expand(self.up_values)

    def _expand(self, up: Tensor) -> Tensor:
        head, dim, rank = up.shape
        flat = torch.nn.functional.linear(self.latent, up.reshape(head * dim, rank))
        return flat.view(self.length, head, dim).transpose(0, 1)


@dataclass(frozen=True)
class Entries:
    """Compressed keys beside those of the tokens; a query sees the ones whose tokens it sees.

    entry_keys:   [kv_head, entry, dim], as attention multiplied them.
    entry_values: [kv_head, entry, value_dim] or None when they were not captured.
    entry_spans:  int64 [entry, 2], first and one past the last token that each was made of.
    """

    entry_keys: Tensor
    entry_spans: Tensor
    entry_values: Tensor | None = None

    @property
    def count(self) -> int:
        return self.entry_keys.shape[1]

    def visible(self, positions: Tensor) -> Tensor:
        """bool [query, entry]"""
        return self.entry_spans[:, 1] <= positions[:, None] + 1


@dataclass(frozen=True)
class Layout:
    """What an indexer's units mean where they are more than a token.

    whole:    a unit can be selected only once the query sees its last token.
    tail:     what a query sees of the unit after its last whole one is attended to in any case.
    forced:   units ending with the query's own that are always selected, and first.
    per_head: each index head selects for itself, for its share of the query heads.
    pooled:   index keys are tokens; a unit's score is the largest of those that the query sees.
    """

    whole: bool = True
    tail: bool = False
    forced: int = 0
    per_head: bool = False
    pooled: bool = False


@dataclass(frozen=True)
class IndexerRecord:
    """A native indexer's operands and what it selected.

    score[t, u] = sum_j weights[t, j] * act(scale * queries[j, t] . keys[u])

    queries:    [index_head, query, dim], keys: [unit, dim], both as the model multiplied them.
    weights:    float32 [query, index_head], every factor outside the activation folded in.
    scale:      factor inside the activation.
    activation: "relu" or "none".
    native:     int64 [set, query, k], the units that the model selected, -1 where nothing visible.
    units_of:   how its units lie on the tokens; None when a unit is a token.
    spans:      int64 [unit, 2], first and one past the last token of each unit; None as above.
    source:     the layer whose indexer this is, where a layer has none and reuses a selection.
    turns:      float32 [pair], how far one position turns each rotary pair of the first dimensions,
                in radians, where pairs are (i, i + pair); None where the family's differ.
    """

    queries: Tensor
    keys: Tensor
    weights: Tensor
    scale: float
    native: Tensor
    activation: str = "relu"
    spans: Tensor | None = None
    units_of: Layout | None = None
    source: int | None = None
    turns: Tensor | None = None

    @property
    def units(self) -> int:
        return self.keys.shape[0] if self.spans is None else self.spans.shape[0]

    @property
    def sets(self) -> int:
        """Selections a query makes: 1, or one an index head."""
        return self.queries.shape[0] if self.units_of and self.units_of.per_head else 1

    def scores(self, rows: Tensor | slice) -> Tensor:
        """float32 [row, key]: the index scores of these query rows, nothing masked; one set."""
        return torch.einsum("th,htu->tu", self.weights[rows].float(), self.products(rows))

    def products(self, rows: Tensor | slice) -> Tensor:
        """float32 [index_head, row, key]: these rows' products, scale and activation taken."""
        product = self.queries[:, rows].float() @ self.keys.float().mT * self.scale
        return product.relu() if self.activation == "relu" else product


@dataclass(frozen=True)
class Witness:
    """The model's own eager attention weights on a few stored rows, kept to prove the rest.

    rows:    int64 [witness], indices into the record's query rows.
    weights: float32 [head, witness, key], sparse selection included where the model has one; the
             compressed entries follow the keys where there are any.
    """

    rows: Tensor
    weights: Tensor


@dataclass(frozen=True)
class LayerRecord:
    """One layer of one sample: stored query rows against every key.

    queries:   [head, query, dim], after RoPE, the model's dtype.
    keys:      PlainKeys or LatentKeys over all tokens.
    positions: int64 [query], token position of each stored row, increasing.
    scale:     factor on q.k
    entries:   compressed keys that are attended to beside the tokens' own (deepseek_v4); a token's
               probability then is its own key's and its share of the entries made of it.
    layers:    another layer's record of the same sample and queries, by its number, for what one
               layer takes over from another; None for a record that stands alone, as a live one.
    Raises RecordError when shapes disagree or a position lies outside the keys.
    """

    layer: int
    queries: Tensor
    keys: PlainKeys | LatentKeys
    positions: Tensor
    scale: float
    mask: MaskRule = field(default_factory=MaskRule)
    indexer: IndexerRecord | None = None
    witness: Witness | None = None
    entries: Entries | None = None
    layers: Callable[[int], LayerRecord] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.queries.ndim != 3 or self.queries.shape[1] != self.positions.shape[0]:
            raise RecordError(
                f"layer {self.layer}: queries {tuple(self.queries.shape)} do not match "
                f"{self.positions.shape[0]} positions; expected [head, query, dim]"
            )
        if self.queries.shape[0] % self.keys.heads:
            raise RecordError(
                f"layer {self.layer}: {self.queries.shape[0]} query heads cannot share "
                f"{self.keys.heads} key heads evenly"
            )
        if len(self.positions) and int(self.positions.max()) >= self.keys.length:
            raise RecordError(
                f"layer {self.layer}: position {int(self.positions.max())} lies outside the "
                f"{self.keys.length} keys"
            )

    @property
    def heads(self) -> int:
        return self.queries.shape[0]

    @property
    def rows(self) -> int:
        return self.queries.shape[1]

    @property
    def length(self) -> int:
        return self.keys.length

    @property
    def group(self) -> int:
        """Query heads that share one key head."""
        return self.heads // self.keys.heads

    @cached_property
    def float_keys(self) -> Tensor:
        """float32 [kv_head, key, dim]"""
        return self.keys.keys().float()

    @cached_property
    def float_values(self) -> Tensor | None:
        """float32 [kv_head, key, value_dim] or None; None beside compressed entries, whose values
        are no token's."""
        values = None if self.entries is not None else self.keys.values()
        return None if values is None else values.float()

    def visible(self, rows: Tensor | slice) -> Tensor:
        """bool [row, key]"""
        positions = self.positions[rows]
        if self.entries is None:
            return self.mask.visible(positions, self.length)
        return units.seen_tokens(self.mask, self.entries, positions, self.length)

    def count(self, rows: Tensor | slice) -> Tensor:
        """int64 [row]: how many keys each query sees."""
        if self.entries is None:
            return self.mask.count(self.positions[rows])
        return self.visible(rows).sum(-1)

    def logits(self, rows: Tensor | slice) -> Tensor:
        """float32 [head, row, key]: scaled q.k, -inf where the mask hides a key; beside entries the
        log of what softmax gives a token, up to a constant of the row."""
        if self.entries is None:
            return self.key_logits(rows)
        return units.spread_over_tokens(
            self.key_logits(rows), self.entry_logits(rows), self.entries
        )

    def key_logits(self, rows: Tensor | slice) -> Tensor:
        """float32 [head, row, key]: scaled q.k of the tokens' own keys alone."""
        product = self.products(self.queries, self.float_keys, rows).mul_(self.scale)
        hidden = ~self.mask.visible(self.positions[rows], self.length)
        return product.masked_fill_(hidden, float("-inf"))

    def entry_logits(self, rows: Tensor | slice) -> Tensor:
        """float32 [head, row, entry]: scaled q.k of the compressed entries; none where there are
        none."""
        if self.entries is None:
            return self.queries.new_zeros(self.heads, len(self.positions[rows]), 0).float()
        product = self.products(self.queries, self.entries.entry_keys, rows).mul_(self.scale)
        hidden = ~self.entries.visible(self.positions[rows])
        return product.masked_fill_(hidden, float("-inf"))

    def products(self, queries: Tensor, keys: Tensor, rows: Tensor | slice) -> Tensor:
        """float32 [head, row, key]: q.k for any queries [head, query, d] and keys [kv_head, key, d]
        of this record's layout, neither scaled nor masked."""
        picked = queries[:, rows].float()
        kv_heads = keys.shape[0]
        head, row, dim = picked.shape
        grouped = picked.reshape(kv_heads, head // kv_heads * row, dim)
        return (grouped @ keys.float().mT).view(head, row, keys.shape[1])

    def chunks(self, sets: int | None = None) -> Iterator[slice]:
        """Row slices whose float32 [sets, row, key] block stays under CHUNK_BYTES (on a GPU under
        CUDA_CHUNK_BYTES); sets defaults to the query heads. The slices depend on the record alone,
        so that two who compute the same logits compute the same bits."""
        per_row = 4 * (sets or self.heads) * max(self.length, 1)
        room = CUDA_CHUNK_BYTES if self.queries.is_cuda else CHUNK_BYTES
        step = max(1, room // per_row)
        for start in range(0, self.rows, step):
            yield slice(start, min(start + step, self.rows))

    def other(self, layer: int) -> LayerRecord:
        """Another layer's record of the same sample and queries. Raises RecordError where this one
        knows of none."""
        if self.layers is None:
            raise RecordError(
                f"layer {self.layer}: this record stands alone, without layer {layer}"
            )
        return self.layers(layer)

    def at(self, rows: Tensor) -> LayerRecord:
        """The same layer with only these query rows (int64 [row], increasing)."""
        indexer = self.indexer
        if indexer is not None:
            indexer = replace(
                indexer,
                queries=indexer.queries[:, rows],
                weights=indexer.weights[rows],
                native=indexer.native[:, rows],
            )
        return replace(
            self,
            queries=self.queries[:, rows],
            positions=self.positions[rows],
            indexer=indexer,
            witness=None,
            layers=None if self.layers is None else lambda layer: self.other(layer).at(rows),
        )

    def to(self, device: torch.device) -> LayerRecord:
        """The same record with every tensor on this device; itself where it is there already."""
        if self.queries.device == device:
            return self
        return replace(
            self,
            queries=self.queries.to(device),
            keys=_moved(self.keys, device),
            positions=self.positions.to(device),
            mask=_moved(self.mask, device),
            indexer=None if self.indexer is None else _moved(self.indexer, device),
            witness=None if self.witness is None else _moved(self.witness, device),
            entries=None if self.entries is None else _moved(self.entries, device),
            layers=None if self.layers is None else lambda layer: self.other(layer).to(device),
        )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every stored tensor by its name on disk."""
        yield "queries", self.queries
        yield "positions", self.positions
        for part in (self.keys, self.mask, self.indexer, self.witness, self.entries):
            if part is None:
                continue
            prefix = _PREFIX[type(part)]
            for name, value in vars(part).items():
                if isinstance(value, Tensor):
                    yield f"{prefix}{name}", value


def _moved(part: Part, device: torch.device) -> Part:
    """A part of a record with its tensors on this device."""
    moved: dict[str, Any] = {
        name: value.to(device) for name, value in vars(part).items() if isinstance(value, Tensor)
    }
    return replace(part, **moved)


_PREFIX: dict[type, str] = {
    PlainKeys: "",
    LatentKeys: "",
    MaskRule: "mask.",
    IndexerRecord: "indexer.",
    Witness: "witness.",
    Entries: "",
}
