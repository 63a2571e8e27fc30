"""Layer records as safetensors files: what one sample adds, and what all samples share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.store.files import written
from indexer_probes.records import (
    Entries,
    IndexerRecord,
    LatentKeys,
    LayerRecord,
    Layout,
    MaskRule,
    PlainKeys,
    Witness,
)

SHARED = ("up_keys", "up_values", "mask.sinks")
"""Tensors that belong to the model's layer: kept once, not with every sample."""


def save(record: LayerRecord, sample_path: Path, layer_path: Path) -> None:
    """Writes the sample's part, and the layer's shared part if it is not there yet."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in record.tensors()}
    shared = {name: tensors.pop(name) for name in SHARED if name in tensors}
    if shared and not layer_path.exists():
        with written(layer_path) as temporary:
            save_file(shared, temporary)
    with written(sample_path) as temporary:
        save_file(tensors, temporary, metadata=_metadata(record))


def load(sample_path: Path, layer_path: Path) -> LayerRecord:
    """The record of one sample and layer, on the CPU.

    Raises InputError naming the file when it is absent, truncated or incomplete.
    """
    tensors, metadata = _read(sample_path)
    if layer_path.exists():
        tensors |= _read(layer_path)[0]
    try:
        return _build(tensors, json.loads(metadata["record"]))
    except (KeyError, TypeError, ValueError) as error:  # RecordError is a ValueError
        raise InputError(
            f"{sample_path} is not a whole layer record ({error}); capture it again"
        ) from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as handle:
            return {
                name: handle.get_tensor(name)
                for name in handle.keys()  # noqa: SIM118 - no mapping
            }, handle.metadata() or {}
    except FileNotFoundError:
        raise InputError(f"{path} is missing: finish the capture with --resume") from None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is damaged ({error}); delete it and run the capture with --resume"
        ) from error


def _metadata(record: LayerRecord) -> dict[str, str]:
    """What is no tensor, as one JSON value: safetensors writes several in an order of chance."""
    indexer = record.indexer
    facts = {
        "layer": record.layer,
        "scale": record.scale,
        "window": record.mask.window,
        "indexer": indexer and _indexer_facts(indexer),
    }
    return {"record": json.dumps(facts, sort_keys=True)}


def _indexer_facts(indexer: IndexerRecord) -> dict[str, Any]:
    """What of an indexer is no tensor; what only some families have is left out where it is not."""
    facts: dict[str, Any] = {"scale": indexer.scale, "activation": indexer.activation}
    if indexer.units_of is not None:
        facts["units"] = vars(indexer.units_of)
    if indexer.source is not None:
        facts["source"] = indexer.source
    return facts


def _build(tensors: dict[str, Tensor], facts: dict[str, Any]) -> LayerRecord:
    return LayerRecord(
        layer=facts["layer"],
        queries=tensors["queries"],
        keys=_keys(tensors),
        positions=tensors["positions"],
        scale=facts["scale"],
        mask=MaskRule(facts["window"], tensors.get("mask.sinks")),
        indexer=_indexer(tensors, facts),
        witness=_witness(tensors),
        entries=_entries(tensors),
    )


def _keys(tensors: dict[str, Tensor]) -> PlainKeys | LatentKeys:
    if "plain_keys" in tensors:
        return PlainKeys(tensors["plain_keys"], tensors.get("plain_values"))
    return LatentKeys(
        tensors["latent"], tensors["rope"], tensors["up_keys"], tensors.get("up_values")
    )


def _indexer(tensors: dict[str, Tensor], facts: dict[str, Any]) -> IndexerRecord | None:
    if "indexer.queries" not in tensors:
        return None
    known = facts["indexer"]
    return IndexerRecord(
        queries=tensors["indexer.queries"],
        keys=tensors["indexer.keys"],
        weights=tensors["indexer.weights"],
        scale=known["scale"],
        native=tensors["indexer.native"],
        activation=known["activation"],
        spans=tensors.get("indexer.spans"),
        units_of=Layout(**known["units"]) if "units" in known else None,
        source=known.get("source"),
        turns=tensors.get("indexer.turns"),
    )


def _entries(tensors: dict[str, Tensor]) -> Entries | None:
    if "entry_keys" not in tensors:
        return None
    return Entries(tensors["entry_keys"], tensors["entry_spans"], tensors.get("entry_values"))


def _witness(tensors: dict[str, Tensor]) -> Witness | None:
    if "witness.rows" not in tensors:
        return None
    return Witness(tensors["witness.rows"], tensors["witness.weights"])


def finite(record: LayerRecord) -> None:
    """Raises InputError naming the layer and tensor when a stored number is NaN or infinite."""
    for name, tensor in record.tensors():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"layer {record.layer}: {name} holds NaN or infinity, so no order of keys exists; "
                "capture in float32 or bfloat16 and look at the model's own output first"
            )
