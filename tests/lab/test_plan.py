"""What a plan says beforehand, against what captures then take."""

import json
from dataclasses import fields, replace

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoConfig, DeepseekV32Config

from indexer_lab import capturing
from indexer_lab.capturing import Encoded, Plan
from indexer_lab.cli import main
from indexer_lab.errors import InputError
from indexer_lab.planning import memory, rates
from indexer_lab.planning.memory import Load, peak_bytes
from indexer_lab.planning.plan import Asked, plan
from indexer_lab.planning.weights import COUNTED, weights_of
from indexer_lab.planning.work import flops
from indexer_lab.positions import parse
from indexer_lab.reference import resolve
from indexer_lab.store.capture import SampleInfo
from indexer_probes.capture import capture
from indexer_probes.loading import load_model

from ..probes.conftest import CASES, build_model
from .live_bytes import LiveBytes

GIB = 2**30


@pytest.fixture(scope="module", params=["needle-dsa", "needle-dense"])
def shipped(request):
    """A shipped model, by name and loaded."""
    return request.param, load_model(resolve(request.param))


@pytest.mark.parametrize("case", CASES)
def test_weights_are_counted_to_the_number(case):
    model = build_model(case)
    told = weights_of(model.config)
    held = [sum(p.numel() for p in layer.parameters()) for layer in model.model.layers]
    assert list(told.layers) == held
    assert told.total == sum(p.numel() for p in model.parameters())


def test_a_family_whose_weights_are_not_counted_is_refused():
    with pytest.raises(InputError, match="no plan for model type 'glm_moe_dsa'"):
        weights_of(AutoConfig.for_model("glm_moe_dsa"))


def test_every_counted_family_is_tested():
    assert {build_model(case).config.model_type for case in CASES} == set(COUNTED)


def test_the_weights_of_deepseek_v32():
    told = weights_of(DeepseekV32Config())
    assert round(told.total / 1e9, 1) == 671.9
    assert round(told.layers[-1] / 1e9, 1) == 11.5  # an MoE layer
    assert round((sum(told.active) + told.trunk) / 1e9) == 38  # what one token meets, tables too


@pytest.mark.parametrize("length", [300, 1200])
@pytest.mark.parametrize(("positions", "values"), [("last:256", False), ("all", True)])
def test_the_peak_is_told_within_a_fifth(shipped, length, positions, values):
    name, model = shipped
    rule = parse(positions)
    ids = torch.randint(0, 2048, (1, length), generator=torch.Generator().manual_seed(0))
    kept = capture(model, lambda record: None, rows=rule.rows, values=values)
    with torch.inference_mode(), LiveBytes() as live, kept:
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    load = Load(length, len(rule.rows(length)), 2, values, 4, kernels=False)
    assert peak_bytes(model.config, load) == pytest.approx(live.peak, rel=0.2), name


def test_what_memory_assumes_is_what_the_probes_do():
    from indexer_kernels import operands
    from indexer_probes import attention, chunks, postponed, records

    assert memory.PIECE_BYTES == records.CHUNK_BYTES
    assert memory.WITNESS_BYTES == attention.WITNESS_BYTES
    assert memory.WORKSPACE == operands.WORKSPACE
    assert (memory.ROWS, memory.ENGINE_ROWS) == (chunks.ROWS, chunks.ENGINE_ROWS)
    assert memory.SCORE_BYTES == postponed.CHUNK_BYTES
    assert memory.CUDA_SCORE_BYTES == records.CUDA_CHUNK_BYTES


def asked(**changes):
    settings = {
        "context": 200, "prompts": 2, "positions": parse("last:16"), "layers": [0, 1],
        "values": True, "witnesses": 4, "itemsize": 2, "device": "cpu", "devices": 1,
        "memory": 8 * GIB,
    }  # fmt: skip
    return Asked(**{**settings, **changes})


def test_the_disk_is_told_within_a_few_percent(shipped, tmp_path):
    _, model = shipped
    want = asked()
    generator = torch.Generator().manual_seed(0)
    prompts = [
        Encoded(torch.randint(0, 2048, (200,), generator=generator), SampleInfo(name, "", 200))
        for name in ("one", "two")
    ]
    keep = Plan(want.layers, want.positions, "last:16", want.values, want.witnesses)
    capturing.run(model, prompts, keep, {"layers": want.layers}, tmp_path / "taken")
    written = sum(f.stat().st_size for f in (tmp_path / "taken").rglob("*.safetensors"))
    assert plan(model.config, want).disk == pytest.approx(written, rel=0.05)


def test_the_first_way_that_fits_is_chosen():
    config = DeepseekV32Config()
    large = asked(context=163840, itemsize=2, device="cuda", layers=list(range(61)))
    assert plan(config, replace(large, memory=2000 * GIB)).chosen.name == "plain"
    two = plan(config, replace(large, memory=800 * GIB, devices=2))
    assert two.chosen.name == "tensor-parallel"
    assert "--nproc-per-node 2" in two.chosen.flags
    assert plan(config, replace(large, memory=141 * GIB)).chosen.name == "streamed"
    assert plan(config, replace(large, memory=16 * GIB)).chosen is None


def test_a_streamed_run_needs_two_layers_and_the_working_memory():
    told = plan(DeepseekV32Config(), asked(context=4096, device="cuda"))
    streamed = next(way for way in told.ways if way.name == "streamed")
    trunk = weights_of(DeepseekV32Config()).trunk * 2
    assert streamed.memory == 2 * told.layer + trunk + told.working
    assert told.read_seconds is None


def test_an_fp8_checkpoint_is_read_at_a_byte_a_number():
    config = DeepseekV32Config()
    whole = asked(layers=[60], device="cuda", disk_rate=2e9)
    wide = plan(config, whole)
    config.quantization_config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    narrow = plan(config, whole)
    assert wide.checkpoint == 2 * narrow.checkpoint
    assert narrow.read_seconds == pytest.approx(weights_of(config).total / 2e9)
    assert plan(config, asked(layers=[0])).checkpoint < narrow.checkpoint / 20


def test_arithmetic_by_hand():
    """Llama of 2 layers: every weight of a layer twice a token, 4 heads of 8 + 8 a pair."""
    config = build_model("llama").config
    linear = 2 * 10 * 2 * 6208
    pairs = 2 * 55 * 4 * (8 + 8)
    assert flops(config, 10, 2, kernels=False) == linear + 2 * pairs


def test_every_rate_says_where_it_was_measured():
    for rate in (rates.rate_of("cpu"), rates.rate_of("cuda:1")):
        assert rate.value > 0
        assert "torch 2." in rate.where
    assert {field.name for field in fields(rates.Rate)} == {"value", "unit", "ceiling", "where"}
    assert plan(DeepseekV32Config(), asked(device="cuda")).at_least


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": 0}, "--context 0"),
        ({"context": 163841}, "163841: the model takes 163840 tokens"),
        ({"prompts": 0}, "--prompts 0"),
        ({"devices": 0}, "--gpus 0"),
        ({"devices": 3}, "--gpus 3: 128 heads"),
        ({"memory": 0}, "--gpu-memory"),
        ({"disk_rate": 0.0}, "--disk-rate"),
    ],
)
def test_what_cannot_be_planned_is_told(change, message):
    with pytest.raises(InputError, match=message):
        plan(DeepseekV32Config(), asked(**change))


def run(*words):
    return CliRunner().invoke(main, ["plan", *words])


def test_the_command_reads_a_configuration_without_weights(tmp_path):
    config = DeepseekV32Config(max_position_embeddings=163840)
    config.save_pretrained(tmp_path)
    words = ["--model", str(tmp_path), "--device", "cuda", "--gpu-memory", "140", "--prompts", "8"]
    told = run(*words)
    assert told.exit_code == 0, told.output
    assert "8 prompts of 163840 tokens, 61 layers" in told.output
    assert "use streamed: --stream-layers --device cuda" in told.output
    assert "at least" in told.output
    as_json = json.loads(run(*words, "--json").output)
    assert as_json["chosen"] == "streamed"
    assert [way["name"] for way in as_json["ways"]] == ["plain", "streamed"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "needle-dsq"], "did you mean 'needle-dsa'"),
        (["--model", "needle-dsa", "--context", "9000"], "takes 8192 tokens"),
        (["--model", "needle-dsa", "--positions", "some"], "--positions 'some'"),
        (["--model", "needle-dsa", "--layers", "6"], "layer"),
        (["--model", "needle-dsa", "--prompts", "none"], "not a valid integer"),
    ],
)
def test_a_users_mistake_is_one_line(words, message):
    told = run(*words)
    assert told.exit_code == 2
    assert message in told.stderr
    assert told.stderr.count("\n") == 1


def test_no_weight_is_made(monkeypatch):
    def refuse(self, *args, **settings):
        raise AssertionError("a layer was made")

    monkeypatch.setattr(torch.nn.Linear, "__init__", refuse)
    monkeypatch.setattr(torch.nn.Embedding, "__init__", refuse)
    assert run("--model", "needle-dsa").exit_code == 0
