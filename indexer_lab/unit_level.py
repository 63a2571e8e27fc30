"""A layer record with an indexer's units in the place of keys, for everything that reads records.

The units that a query may select are the first ones, so with the last of them as its position the
causal rule holds as it does for tokens. A unit's logit is the logsumexp of its tokens' logits: its
softmax is the tokens' probability, pooled. Of compressed entries it is the entry's own logit. What
a query attends to in any case (the tail of a started unit, a window of tokens) is no unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from indexer_probes import units
from indexer_probes.records import LayerRecord, MaskRule, PlainKeys, RecordError


@dataclass(frozen=True)
class UnitKeys(PlainKeys):
    """Stands for keys that no unit has: only how many there are, and how many heads."""

    count: int = 0

    @property
    def length(self) -> int:
        return self.count

    def keys(self) -> Tensor:
        raise RecordError("a unit that spans several tokens has no key of its own")

    def values(self) -> None:
        return None


@dataclass(frozen=True)
class UnitRecord(LayerRecord):
    """positions: int64 [query], the last unit that each query may select, -1 for none.
    tokens: the record of tokens that this one is made of."""

    tokens: LayerRecord | None = None

    @property
    def base(self) -> LayerRecord:
        assert self.tokens is not None
        return self.tokens

    def logits(self, rows: Tensor | slice) -> Tensor:
        """float32 [head, row, unit]: -inf where a query may not select."""
        indexer = self.indexer
        assert indexer is not None
        assert indexer.spans is not None
        if self.base.entries is not None:
            return self.base.entry_logits(rows)
        pooled = units.pool(self.base.logits(rows), indexer.spans, "logsumexp")
        return pooled.masked_fill_(~self.visible(rows), float("-inf"))

    def chunks(self, sets: int | None = None) -> Iterator[slice]:
        """As of the tokens, whose logits are computed on the way."""
        return self.base.chunks(sets)


def has_units(record: LayerRecord) -> bool:
    """Whether this record's indexer selects units and the record is still one of tokens."""
    spanned = record.indexer is not None and record.indexer.spans is not None
    return spanned and not isinstance(record, UnitRecord)


def unit_record(record: LayerRecord) -> UnitRecord:
    """The record with units for keys; itself when it is one already. Raises RecordError for an
    indexer of tokens."""
    if isinstance(record, UnitRecord):
        return record
    if record.indexer is None or record.indexer.spans is None:
        raise RecordError(f"layer {record.layer} has no indexer that selects units")
    shape = record.keys.heads, 0, 0
    return UnitRecord(
        layer=record.layer,
        queries=record.queries,
        keys=UnitKeys(record.queries.new_empty(shape), count=record.indexer.units),
        positions=units.counts(record.indexer, record.positions) - 1,
        scale=record.scale,
        mask=MaskRule(),
        indexer=record.indexer,
        tokens=record,
    )


def unit_size(record: LayerRecord) -> int:
    """Tokens that one unit adds to those before it; the first unit has exactly so many."""
    assert record.indexer is not None
    assert record.indexer.spans is not None
    first, end = record.indexer.spans[0].tolist()
    return int(end - first)
