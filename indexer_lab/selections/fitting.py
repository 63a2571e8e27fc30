"""An engine's selections laid over a capture: rows to positions, columns to layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from indexer_lab.errors import InputError, unknown_name
from indexer_lab.selections.arrays import Integers
from indexer_lab.selections.payload import Payload
from indexer_lab.store.capture import Capture, SampleInfo
from indexer_lab.store.files import digest
from indexer_lab.store.fingerprint import fingerprint
from indexer_lab.unit_level import has_units
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Fitted:
    """One sample and layer.

    native:   whether the capture holds the model's own selection too.
    mark:     fingerprint of the queries that it belongs to.
    picked:   int32 [query, k], -1 for empty places; one row for each captured query.
    future:   places with keys after the query.
    repeated: places with a key that the row has already.
    empty:    places left empty in rows that see enough keys to fill them.
    These are the engine's own doing: they are kept, and the measures count them.
    """

    sample: SampleInfo
    layer: int
    native: bool
    mark: str
    picked: Tensor
    future: int
    repeated: int
    empty: int


def assign(capture: Capture, payloads: list[Payload]) -> dict[str, Payload]:
    """Sample id -> payload: by the ids that payloads name, else one for one in the capture's order.

    Raises InputError when an id is unknown, taken twice or left without a payload.
    """
    known = [sample.id for sample in capture.samples]
    names = [each.sample or (each.hint if each.hint in known else "") for each in payloads]
    named = [bool(name) for name in names]
    if any(named) and not all(named):
        raise InputError(
            f"{payloads[named.index(False)].where} names no sample and others do; name all or none"
        )
    if not any(named) and len(payloads) != len(known):
        raise InputError(
            f"{_count(payloads, 'selection')} and {_count(known, 'sample')}, and no names; "
            'write {"sample": "the id", "response": …}, one a line'
        )
    ids = names if all(named) else known
    found: dict[str, Payload] = {}
    for name, payload in zip(ids, payloads, strict=True):
        if name not in known:
            raise unknown_name(f"sample in {payload.where}", name, known)
        if name in found:
            raise InputError(f"{payload.where}: sample {name!r} has a selection already")
        found[name] = payload
    if absent := [name for name in known if name not in found]:
        raise InputError(f"sample {absent[0]!r} of the capture has no selection; give one for each")
    return found


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def columns(capture: Capture, payload: Payload, named: Sequence[int] | None) -> dict[int, int]:
    """Captured layer -> column of the payload.

    named: the model's layers that the columns stand for, in order; None: column n is layer n.
    Raises InputError when a captured layer has no column.
    """
    width = payload.picked.shape[1]
    if named is not None and len(named) != width:
        raise InputError(f"{payload.where} holds {width} layers, and --layers names {len(named)}")
    found = {layer: column for column, layer in enumerate(named or range(width))}
    for layer in capture.layers:
        if layer not in found:
            raise InputError(
                f"{payload.where} holds {width} layers, and the capture's layer {layer} is none of "
                "them; say with --layers which layers of the model they are"
            )
    return found


def check_prompt(sample: SampleInfo, payload: Payload, start: int) -> None:
    """Raises InputError when the payload is of another prompt, as far as it says."""
    where, rows = payload.where, payload.picked.shape[0]
    if payload.prompt is not None and payload.prompt != sample.length:
        raise InputError(
            f"{where} is of a prompt of {payload.prompt} tokens, and sample {sample.id!r} has "
            f"{sample.length}: send the engine the token ids that were captured"
        )
    if payload.token_ids is not None:
        _same_tokens(where, payload.token_ids, sample)
    if payload.prompt is not None and payload.completion is not None:
        whole = payload.prompt + payload.completion
        if rows + start not in (whole - 1, whole):
            raise InputError(
                f"{where}: rows end at position {rows + start - 1} and the request has {whole} "
                f"tokens; was it asked with indexer_topk_prompt_start? give that as --start"
            )


def _same_tokens(where: str, ids: list[int], sample: SampleInfo) -> None:
    if len(ids) != sample.length:
        raise InputError(
            f"{where} has {len(ids)} prompt token ids, and sample {sample.id!r} {sample.length}"
        )
    if sample.tokens and digest(ids) != sample.tokens:
        raise InputError(
            f"{where}: its token ids are not those of sample {sample.id!r}, which has as many; "
            "another tokenizer, chat template or beginning-of-text token?"
        )


def fit(
    capture: Capture, found: dict[str, Payload], layers: Sequence[int] | None, start: int
) -> Iterator[Fitted]:
    """Every sample and layer. Raises InputError naming the value that does not fit."""
    for sample in capture.samples:
        payload = found[sample.id]
        check_prompt(sample, payload, start)
        at = columns(capture, payload, layers)
        for layer in capture.layers:
            record = capture.record(sample, layer)
            if has_units(record):
                raise InputError(
                    f"layer {layer}'s indexer selects units that span several tokens; engines' "
                    "selections of tokens do not fit it"
                )
            positions = record.positions.numpy()
            rows = payload.picked[_rows(sample, payload, positions, start), at[layer]]
            _in_range(sample, layer, payload, positions, rows)
            yield _counted(sample, record, rows)


def _rows(sample: SampleInfo, payload: Payload, positions: Integers, start: int) -> Integers:
    held = payload.picked.shape[0]
    first, last = int(positions.min()), int(positions.max())
    if first < start or last >= start + held:
        missing = first if first < start else last
        raise InputError(
            f"{payload.where} holds positions {start} to {start + held - 1}, and sample "
            f"{sample.id!r} was captured at position {missing}; capture fewer --positions, or say "
            "where the rows begin with --start"
        )
    return np.asarray(positions - start)


def _in_range(
    sample: SampleInfo, layer: int, payload: Payload, positions: Integers, rows: Integers
) -> None:
    wrong = (rows < -1) | (rows >= sample.length)
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        raise InputError(
            f"{payload.where}: layer {layer}, position {positions[row]} picks "
            f"{rows[row, place]}, and sample {sample.id!r} has positions 0 to {sample.length - 1}; "
            "cache slots or paged coordinates cannot be mapped back (SGLang before its pull "
            "request 26684 returned them)"
        )


def _counted(sample: SampleInfo, record: LayerRecord, rows: Integers) -> Fitted:
    ordered = np.sort(rows, axis=-1)
    again = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    full = record.mask.count(record.positions).numpy() >= rows.shape[-1]
    return Fitted(
        sample,
        record.layer,
        record.indexer is not None,
        fingerprint(record.queries, record.positions),
        torch.from_numpy(rows.astype(np.int32)),
        future=int((rows > record.positions.numpy()[:, None]).sum()),
        repeated=int(again.sum()),
        empty=int((rows[full] == -1).sum()),
    )
