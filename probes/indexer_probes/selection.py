"""From what an indexer did in a forward to the record of it."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from indexer_probes.families import AttentionCall, Family
from indexer_probes.indexer import Chosen, index_record
from indexer_probes.records import IndexerRecord


def indexer_of(
    family: Family,
    call: AttentionCall,
    operands: Chosen | None,
    rows: Tensor,
    positions: Tensor,
    layer: int,
) -> IndexerRecord | None:
    """The indexer's record of these rows of a call, int64 [query], at positions int64 [query]; None
    in a dense layer, and where the sequence is too short for a single unit.

    Raises ProbeError when the record cannot be proved.
    """
    indexer = family.indexer(call.attention)
    if operands is None or not operands.units:
        return None
    module = operands.indexer if indexer is None else indexer
    assert module is not None
    layout = family.layout(call.attention, module)
    if layout is None:
        record = index_record(operands, module, rows, positions, layer)
        turns = family.turns(module)
        return replace(record, turns=None if turns is None else turns.to(positions.device))
    keys = operands.operands(rows[:1])[1]
    spans = family.spans(module, operands.units, keys)
    return index_record(operands, module, rows, positions, layer, layout, spans)
