"""Native indexers of every kind stream too: shared selections, blocks, compressed entries."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from indexer_lab import capturing
from indexer_lab.capturing import Encoded, Plan, manifest
from indexer_lab.capturing_streamed import run_streamed
from indexer_lab.positions import parse
from indexer_lab.store.capture import SampleInfo
from indexer_probes.loading import class_of, load_model
from indexer_probes.session import attention_layers
from indexer_probes.streaming.model import StreamedModel, open_model
from indexer_probes.tiny import tiny_config

FAMILIES = ["deepseek_v4", "glm_moe_dsa", "hy_v4", "minimax_m3_vl", "qwen4_exp", "dots3_note"]


def built(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return class_of(config := tiny_config(family)).from_config(config)


def inputs() -> list[Encoded]:
    generator = torch.Generator().manual_seed(1)
    return [
        Encoded(torch.randint(0, 64, (n,), generator=generator), SampleInfo(f"of-{n}", "", n))
        for n in (30, 41)
    ]


def plan(layers: list[int]) -> Plan:
    return Plan(layers, parse("last:12"), "last:12", values=True, witnesses=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_native_indexer_gives_the_same_bytes(family, tmp_path, contents):
    built(family).save_pretrained(tmp_path / "model")
    plain, streamed = load_model(str(tmp_path / "model")), open_model(str(tmp_path / "model"))
    chosen = plan(sorted(attention_layers(plain).values()))
    facts = manifest(plain, "model", None, inputs(), chosen, seed=0)
    capturing.run(plain, inputs(), chosen, facts, tmp_path / "plain")
    run_streamed(streamed, inputs(), chosen, facts, tmp_path / "streamed")
    assert contents(tmp_path / "streamed") == contents(tmp_path / "plain")


def test_a_shared_selection_survives_a_stop_and_layers_that_nobody_asked_for(
    tmp_path, contents, monkeypatch
):
    """Layer 3 reuses what layer 2 chose; only layer 3 is captured, and the run stops before it."""
    built("glm_moe_dsa").save_pretrained(tmp_path / "model")
    plain = load_model(str(tmp_path / "model"))
    facts = manifest(plain, "model", None, inputs(), plan([3]), seed=0)
    expected = capturing.run(plain, inputs(), plan([3]), facts, tmp_path / "plain")
    assert expected.record(expected.samples[0], 3).indexer.source == 2
    real = StreamedModel.run

    def stopped(self, number, ids, before):
        if number == 3:
            raise KeyboardInterrupt
        return real(self, number, ids, before)

    monkeypatch.setattr(StreamedModel, "run", stopped)
    folder = str(tmp_path / "model")
    with pytest.raises(KeyboardInterrupt):
        run_streamed(open_model(folder), inputs(), plan([3]), facts, tmp_path / "streamed")
    monkeypatch.setattr(StreamedModel, "run", real)
    run_streamed(open_model(folder), inputs(), plan([3]), facts, tmp_path / "streamed", resume=True)
    assert contents(tmp_path / "streamed") == contents(tmp_path / "plain")
    assert not (tmp_path / "streamed" / "states").exists()


@pytest.mark.parametrize("option", ["--stream-layers", "--tensor-parallel"])
def test_decode_steps_need_the_whole_model_in_one_process(option, tmp_path):
    from click.testing import CliRunner

    from indexer_lab.cli import main

    words = ["capture", "--model", "needle-dsa", "--prompts", str(tmp_path / "p"), "-o", "x"]
    done = CliRunner().invoke(main, [*words, option, "--decode", "4"])
    assert done.exit_code == 2
    assert f"{option} and --decode exclude each other" in done.stderr
