"""Greedy decode steps behind a cache, captured: the prompt's record and the steps' made one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from indexer_probes import units
from indexer_probes.attention import spread
from indexer_probes.capture import Rows, capture
from indexer_probes.errors import ProbeError
from indexer_probes.indexer import PROOF_ROWS, TOLERANCE, worst
from indexer_probes.proving import adopt
from indexer_probes.records import IndexerRecord, LayerRecord, Witness


def capture_decoding(
    model: Any,
    ids: Tensor,
    steps: int,
    on_record: Callable[[LayerRecord], None],
    layers: Iterable[int] | None,
    rows: Rows,
    values: bool = False,
    witnesses: int = 4,
) -> list[int]:
    """Reads a prompt int64 [token] through a cache, then generates `steps` tokens greedily, each
    fed back; hands on one record a layer, of the prompt's kept queries and of every generated
    token's.

    Keys are those of the prompt and of the generated tokens, positions go on after the prompt's. A
    token that ends a text does not end the decoding: the number of rows is what was asked for.
    Returns the generated ids. Raises ProbeError as `capture` does, and for a family whose cache
    does not keep every token.
    """
    refuse_decoding(model)
    parts: dict[int, list[LayerRecord]] = {}

    def keep(record: LayerRecord) -> None:
        parts.setdefault(record.layer, []).append(record)

    wanted = None if layers is None else tuple(layers)
    cache = whole_cache(model)
    with capture(model, keep, wanted, rows, values, witnesses):
        token = _next(model, ids[None].to(model.device), cache)
    proved = set(spread(steps, witnesses).tolist()) if witnesses else set()
    generated = []
    for step in range(steps):
        generated.append(int(token))
        if step:  # the keys of the step before are among this one's
            for records in parts.values():
                records[-1] = _without_keys(records[-1])
        with capture(model, keep, wanted, _last, values, int(step in proved)):
            token = _next(model, token, cache)
    for layer in sorted(parts):
        on_record(joined(parts.pop(layer)))
    return generated


def refuse_decoding(model: Any) -> None:
    """Raises ProbeError for a family whose decode steps cannot be captured."""
    reason = adopt(model.config).no_decoding
    if reason is not None:
        raise ProbeError(f"decode steps of {model.config.model_type} cannot be captured: {reason}")


def whole_cache(model: Any) -> DynamicCache:
    """An empty cache of the model's own kinds of layers that drops no token, windows or not."""
    cache = DynamicCache(config=model.config.get_text_config())
    cache.layers = [
        DynamicLayer() if type(layer) is DynamicSlidingWindowLayer else layer
        for layer in cache.layers
    ]
    return cache


def _next(model: Any, ids: Tensor, cache: DynamicCache) -> Tensor:
    """int64 [1, 1]: the likeliest token after these."""
    logits: Tensor = model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits
    return logits[:, -1:].argmax(-1)


def _last(length: int) -> Tensor:
    return torch.tensor([length - 1])


def _without_keys(record: LayerRecord) -> LayerRecord:
    """The record of a step whose keys a later one holds: they are let go."""
    indexer = record.indexer
    if indexer is not None:
        indexer = replace(indexer, keys=indexer.keys[:0])
    stub = copy(record.keys)
    held = {name: part[:0] for name, part in vars(stub).items() if isinstance(part, Tensor)}
    vars(stub).update(held)
    slim = copy(record)  # unchecked: its queries lie beyond the keys that it has left
    vars(slim).update(keys=stub, indexer=indexer)
    return slim


def joined(parts: Sequence[LayerRecord]) -> LayerRecord:
    """One record of forwards of one sequence behind a cache: the queries of all of them against the
    last one's keys, which hold the others'."""
    last = parts[-1]
    return replace(
        last,
        queries=torch.cat([part.queries for part in parts], dim=1),
        positions=torch.cat([part.positions for part in parts]),
        indexer=None if last.indexer is None else _indexer(parts),
        witness=_witness(parts, last.length),
    )


def _indexer(parts: Sequence[LayerRecord]) -> IndexerRecord:
    """The steps' selections beside the last one's keys.

    Raises ProbeError when no form of the score holds for all of them. One query may leave it open
    which form is the model's: without a negative product, ReLU shows nothing.
    """
    last = parts[-1].indexer
    known = [part.indexer for part in parts if part.indexer is not None]
    if last is None or len(known) < len(parts):  # a prompt too short for a single unit chose none
        raise ProbeError(
            f"layer {parts[-1].layer}: its indexer had nothing to select from in the prompt, "
            "and has in the steps; give a longer prompt"
        )
    width = max(part.native.shape[-1] for part in known)
    native = [pad(part.native, (0, width - part.native.shape[-1]), value=-1) for part in known]
    whole = replace(
        last,
        queries=torch.cat([part.queries for part in known], dim=1),
        weights=torch.cat([part.weights for part in known]),
        native=torch.cat(native, dim=1),
    )
    for scale, activation in dict.fromkeys((part.scale, part.activation) for part in known):
        form = replace(whole, scale=scale, activation=activation)
        if all(_agrees(form, part, last.keys) for part in parts):
            return form
    raise ProbeError(f"layer {parts[-1].layer}: its indexer scores the steps in another form")


def _agrees(form: IndexerRecord, part: LayerRecord, keys: Tensor) -> bool:
    """Whether a forward's scores in this form are those in the form that was proved for it."""
    assert part.indexer is not None
    own = replace(part.indexer, keys=keys, spans=form.spans)
    same = replace(own, scale=form.scale, activation=form.activation)
    rows = spread(part.rows, PROOF_ROWS).to(keys.device)
    positions = part.positions[rows]
    scores, truth = (units.ranked(each, rows, positions) for each in (same, own))
    return worst(scores, truth) <= TOLERANCE


def _witness(parts: Sequence[LayerRecord], length: int) -> Witness | None:
    """The forwards' witnesses; a key that came later has no weight."""
    rows, weights, before = [], [], 0
    for part in parts:
        if part.witness is not None:
            rows.append(part.witness.rows + before)
            held = part.witness.weights
            weights.append(pad(held, (0, length - held.shape[-1])))
        before += part.rows
    return Witness(torch.cat(rows), torch.cat(weights, dim=1)) if rows else None
