"""The benchmark writes a checkpoint that streams, and prints what a GPU run will be judged by."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def streamed_layers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import streamed_layers

    yield streamed_layers
    for name in ("streamed_layers", "synthetic"):
        del sys.modules[name]


def test_a_small_width_from_the_first_byte_to_the_hours(
    streamed_layers, tmp_path, monkeypatch, capsys
):
    results = tmp_path / "results" / "rows.csv"
    monkeypatch.setattr(streamed_layers, "RESULTS", results)
    words = ["--width", "small", "--tokens", "96", "--sparse", "1", "--seconds", "0.1", "--csv"]
    words += ["--folder", str(tmp_path), "--device", "cpu", "--shard", "4"]
    monkeypatch.setattr(sys, "argv", ["streamed_layers.py", *words])
    streamed_layers.main()
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[-20:])
    assert float(told["disk_gb_per_s"]) > 0
    assert float(told["model_hours"]) > 0
    header, row = (line.split(",") for line in results.read_text().splitlines())
    assert dict(zip(header, row, strict=True))["width"] == "small"
    assert [path.name for path in tmp_path.iterdir()] == ["results"]  # the checkpoint is gone


def test_the_hours_are_those_of_the_published_layers(streamed_layers):
    times = [
        streamed_layers.LayerTimes(0, 1, 9.0, waited_seconds=5.0),
        streamed_layers.LayerTimes(1, 1, 9.0, waited_seconds=60.0),
        streamed_layers.LayerTimes(2, 1, 9.0, waited_seconds=6.0, fill_seconds=4.0),
    ]
    assert streamed_layers.hours(times, dense=1) == pytest.approx((3 * 5 + 58 * 10) / 3600)
    assert streamed_layers.hours(times[1:], dense=0) == pytest.approx(58 * 10 / 3600)


def test_the_real_width_has_the_published_names_and_sizes(streamed_layers):
    import synthetic
    from transformers import DeepseekV32Config

    config = DeepseekV32Config(num_hidden_layers=2, first_k_dense_replace=1)
    tensors = synthetic._tensors(config)
    layer = {name: facts for name, facts in tensors.items() if ".layers.1." in name}
    stem = "model.layers.1."
    assert layer[f"{stem}mlp.experts.255.down_proj.weight"] == ("F8_E4M3", (7168, 2048))
    assert layer[f"{stem}mlp.experts.255.down_proj.weight_scale_inv"] == ("F32", (56, 16))
    assert layer[f"{stem}self_attn.kv_a_proj_with_mqa.weight_scale_inv"] == ("F32", (5, 56))
    assert layer[f"{stem}self_attn.indexer.weights_proj.weight"] == ("BF16", (64, 7168))
    numbers = sum(
        synthetic._bytes("F8_E4M3", shape)
        for name, (_, shape) in layer.items()
        if not name.endswith("_scale_inv")
    )
    assert 11.2e9 < numbers < 11.6e9  # the published 11.3 B parameters of a layer with experts
    stored = sum(synthetic._bytes(*facts) for facts in layer.values())
    assert stored < 1.01 * numbers
