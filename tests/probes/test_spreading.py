"""Models over several devices: the records are those of one device, or a reason is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from indexer_probes.capture import capture
from indexer_probes.errors import ProbeError
from indexer_probes.gathering import Gathering
from indexer_probes.loading import load_model
from indexer_probes.records import IndexerRecord, LayerRecord, PlainKeys
from indexer_probes.spreading import input_device, load_mapped, load_parallel, read_device_map

from .conftest import build_model

HALF_ON_DISK = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "disk",
    "lm_head": "cpu",
}


def records(model: PreTrainedModel, tokens: Tensor) -> list[LayerRecord]:
    found: list[LayerRecord] = []
    with torch.inference_mode(), capture(model, found.append, values=True):
        model(input_ids=tokens.to(input_device(model)), use_cache=False)
    return found


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, HALF_ON_DISK, {"": "disk"}])
@pytest.mark.parametrize("case", ["llama", "deepseek_v32", "gpt_oss"])
def test_a_device_map_changes_no_tensor(case, device_map, tokens, tmp_path):
    build_model(case).save_pretrained(tmp_path / "model")
    expected = records(load_model(str(tmp_path / "model")), tokens)
    model = load_mapped(str(tmp_path / "model"), device_map)
    wrapped = [module for module in model.modules() if hasattr(module, "_hf_hook")]
    assert bool(wrapped) == ("disk" in str(device_map))
    for _ in range(2):  # what the probe leaves behind must not disturb accelerate
        found = records(model, tokens)
        assert [record.layer for record in found] == [0, 1]
        for record, other in zip(found, expected, strict=True):
            for (name, tensor), (_, wanted) in zip(record.tensors(), other.tensors(), strict=True):
                assert torch.equal(tensor, wanted), (record.layer, name)
    assert [module for module in model.modules() if hasattr(module, "_hf_hook")] == wrapped


def test_a_map_by_name_or_as_json():
    assert read_device_map("auto") == "auto"
    assert read_device_map(json.dumps(HALF_ON_DISK)) == HALF_ON_DISK
    assert read_device_map('{"": 0}') == {"": 0}


@pytest.mark.parametrize("text", ["automatic", "{}", "[1]", '{"": null}', '{"": true}', ""])
def test_a_map_that_is_none(text):
    with pytest.raises(ProbeError, match=r"device map .*: expected auto, balanced"):
        read_device_map(text)


def test_a_device_that_is_not_there(tmp_path: Path):
    for device in ("cuda:77", 77):
        with pytest.raises(ProbeError, match="device 'cuda:77' cannot be used"):
            load_mapped(str(tmp_path / "unread"), {"": device})


def test_a_family_that_transformers_cannot_spread(tmp_path: Path, monkeypatch):
    build_model("gpt_oss").save_pretrained(tmp_path / "model")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProbeError, match="no tensor-parallel plan for 'gpt_oss'"):
        load_parallel(str(tmp_path / "model"))


def test_tensor_parallelism_needs_processes(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ProbeError, match="start it with `torchrun"):
        load_parallel(str(tmp_path))


@pytest.mark.parametrize(("parts", "what"), [("3", "num_attention_heads 4"), ("4", "heads 2")])
def test_heads_that_do_not_divide(parts, what, tmp_path, monkeypatch):
    build_model("llama").save_pretrained(tmp_path / "model")
    monkeypatch.setenv("WORLD_SIZE", parts)
    with pytest.raises(ProbeError, match=f"{what}.*cannot share evenly"):
        load_parallel(str(tmp_path / "model"))


def part(heads: int, key_heads: int, index_heads: int | None = None) -> LayerRecord:
    indexer = None
    if index_heads:
        native = torch.zeros(1, 2, 1, dtype=torch.int64)
        weights = torch.ones(2, index_heads)
        indexer = IndexerRecord(torch.ones(index_heads, 2, 4), torch.ones(5, 4), weights, 1, native)
    keys = PlainKeys(torch.ones(key_heads, 5, 8))
    positions = torch.tensor([3, 4])
    return LayerRecord(7, torch.ones(heads, 2, 8), keys, positions, 1.0, indexer=indexer)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (part(3, 1), "holds 3 of 8 query heads, which is no even part of 2"),
        (part(4, 4), "its query heads are spread over the processes and its key heads are not"),
        (part(8, 2), "its query heads are spread over the processes and its key heads are not"),
        (part(4, 2, index_heads=8), "holds 8 of 16 index heads, and no process sees the whole"),
    ],
)
def test_parts_that_do_not_make_a_whole_are_refused(record, reason, monkeypatch):
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    with pytest.raises(ProbeError, match=f"layer 7: .*{reason}.*without --tensor-parallel"):
        Gathering(8, 4, 16).whole(record)
