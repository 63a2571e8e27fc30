"""A streamed capture is the plain one: every family, every tensor, every byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from indexer_lab import capturing
from indexer_lab.capturing import Encoded, Plan, manifest
from indexer_lab.capturing_streamed import run_streamed
from indexer_lab.positions import parse
from indexer_lab.store.capture import SampleInfo
from indexer_probes.loading import load_model
from indexer_probes.streaming.model import StreamedModel, open_model
from indexer_probes.streaming.skeleton import TRUNK

from ..probes.conftest import CASES, build_model
from .published import INDEX

LENGTHS = {"short": 17, "long": 41}


@pytest.fixture
def encoded() -> list[Encoded]:
    generator = torch.Generator().manual_seed(1)
    return [
        Encoded(torch.randint(0, 64, (n,), generator=generator), SampleInfo(name, "noise", n))
        for name, n in LENGTHS.items()
    ]


def plan(layers: list[int]) -> Plan:
    return Plan(layers, parse("last:12"), "last:12", values=True, witnesses=4)


@pytest.mark.parametrize("case", CASES)
def test_every_family_gives_the_same_bytes(case, encoded, tmp_path, contents):
    build_model(case).save_pretrained(tmp_path / "model", max_shard_size="20KB")
    plain, streamed = load_model(str(tmp_path / "model")), open_model(str(tmp_path / "model"))
    facts = manifest(plain, "model", None, encoded, plan([0, 1]), seed=0)
    assert manifest(streamed, "model", None, encoded, plan([0, 1]), seed=0) == facts
    capturing.run(plain, encoded, plan([0, 1]), facts, tmp_path / "plain")
    run_streamed(streamed, encoded, plan([0, 1]), facts, tmp_path / "streamed")
    expected = contents(tmp_path / "plain")
    assert len(expected) >= 4
    assert contents(tmp_path / "streamed") == expected
    assert not (tmp_path / "streamed" / "states").exists()


def test_rotary_frequencies_are_the_model_s_own(encoded, tmp_path, contents):
    """Yarn scales them by a table that no checkpoint holds."""
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    model = build_model("llama")
    model.config.rope_parameters = {**rope, "rope_theta": 10000.0}
    model.save_pretrained(tmp_path / "model")
    plain, streamed = load_model(str(tmp_path / "model")), open_model(str(tmp_path / "model"))
    assert plain.model.rotary_emb.attention_scaling > 1
    facts = manifest(plain, "model", None, encoded, plan([0, 1]), seed=0)
    capturing.run(plain, encoded, plan([0, 1]), facts, tmp_path / "plain")
    run_streamed(streamed, encoded, plan([0, 1]), facts, tmp_path / "streamed")
    assert contents(tmp_path / "streamed") == contents(tmp_path / "plain")


@pytest.mark.parametrize("layers", [[0], [1]])
def test_some_layers_only(layers, encoded, tmp_path, contents):
    build_model("llama").save_pretrained(tmp_path / "model")
    plain, streamed = load_model(str(tmp_path / "model")), open_model(str(tmp_path / "model"))
    facts = manifest(plain, "model", None, encoded, plan(layers), seed=0)
    capturing.run(plain, encoded, plan(layers), facts, tmp_path / "plain")
    run_streamed(streamed, encoded, plan(layers), facts, tmp_path / "streamed")
    assert contents(tmp_path / "streamed") == contents(tmp_path / "plain")
    assert [times.layer for times in streamed.times] == list(range(layers[-1] + 1))


def test_an_fp8_checkpoint_gives_what_its_bfloat16_copy_gives(pair, tmp_path, run):
    fp8, bf16 = pair
    done = run(fp8, tmp_path / "fp8", "--stream-layers", "--values", "--positions", "all")
    assert done.exit_code == 0, done.output
    assert run(bf16, tmp_path / "bf16", "--values", "--positions", "all").exit_code == 0
    files = sorted((tmp_path / "bf16").rglob("*.safetensors"))
    assert len(files) == 6
    for file in files:
        expected = load_file(file)
        found = load_file(tmp_path / "fp8" / file.relative_to(tmp_path / "bf16"))
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype, name
            assert torch.equal(found[name], tensor), name
    native = load_file(files[-1])["indexer.native"]
    assert (native >= 0).any()


def test_a_bfloat16_llama_in_one_file(tmp_path, run, contents):
    build_model("llama").bfloat16().save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / INDEX).exists()
    assert run(tmp_path / "model", tmp_path / "plain").exit_code == 0
    done = run(tmp_path / "model", tmp_path / "streamed", "--stream-layers")
    assert done.exit_code == 0, done.output
    assert contents(tmp_path / "streamed") == contents(tmp_path / "plain")
    manifests = [(tmp_path / each / "manifest.json").read_text() for each in ("plain", "streamed")]
    assert manifests[0] == manifests[1]


def test_what_was_read_and_took_is_told(pair, tmp_path, run):
    done = run(pair[0], tmp_path / "c", "--stream-layers")
    assert "streamed 2 layers" in done.output
    assert "disk alone" in done.output
    assert "h for all 2 layers" in done.output
    told = json.loads((tmp_path / "c" / "streaming.json").read_text())
    stored = sum(file.stat().st_size for file in pair[0].glob("*.safetensors"))
    assert 0 < told["bytes"] < stored  # lm_head, and the layer past the last, are never read
    assert told["disk_gb_per_s"] > 0
    assert told["seconds_per_layer"] == pytest.approx(
        told["waited_seconds_per_layer"]
        + told["fill_seconds_per_layer"]
        + told["compute_seconds_per_layer"]
    )
    assert told["model_hours"] == pytest.approx(told["seconds_per_layer"] * 2 / 3600)


def bare(model: PreTrainedModel, part: str) -> set[bool]:
    return {p.is_meta for name, p in model.named_parameters() if f".{part}." in name}


def test_one_layer_at_a_time_is_in_memory(pair):
    streamed: StreamedModel = open_model(str(pair[0]))
    model = streamed.frame.model
    for number in streamed.layers(0, 1):
        assert bare(model, f"layers.{number}") == {False}
        assert bare(model, f"layers.{1 - number}") == {True}
        assert bare(model, "embed_tokens") == {number > 0}
        assert bare(model, "norm") == {False}
        assert model.lm_head.weight.is_meta
    assert all(parameter.is_meta for parameter in model.parameters())


def test_the_weights_of_a_walk_that_is_left_early_are_freed(pair):
    streamed = open_model(str(pair[0]))
    walk = streamed.layers(0, 1)
    next(walk)
    walk.close()
    assert all(parameter.is_meta for parameter in streamed.frame.model.parameters())
    assert streamed.parts.size(TRUNK) == 2 * 160  # the last norm, bfloat16


def test_nothing_stays_of_the_stand_ins(pair, encoded):
    streamed = open_model(str(pair[0]))
    for number in streamed.layers(0, 0):
        streamed.run(number, encoded[0].ids, None)
    assert not any("forward" in vars(module) for module in streamed.frame.model.modules())


def test_a_model_of_the_hub_cache_is_found_without_the_hub(pair, tmp_path, run, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--deep--seek"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "blobs").mkdir()
    (cached / "snapshots" / commit).mkdir(parents=True)
    for number, file in enumerate(sorted(pair[0].iterdir())):  # as the cache keeps them: links
        (cached / "blobs" / str(number)).write_bytes(file.read_bytes())
        (cached / "snapshots" / commit / file.name).symlink_to(f"../../blobs/{number}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    done = run(Path("deep/seek"), tmp_path / "c", "--stream-layers")
    assert done.exit_code == 0, done.output
    absent = run(Path("deep/other"), tmp_path / "d", "--stream-layers")
    assert absent.exit_code == 2
    assert "run `hf download deep/other` first" in absent.stderr


def test_the_plain_path_says_who_reads_fp8(pair, tmp_path, run):
    done = run(pair[0], tmp_path / "c")
    assert done.exit_code == 2
    assert "stored in FP8 blocks, which only `capture --stream-layers` reads" in done.stderr
    assert not (tmp_path / "c").exists()
