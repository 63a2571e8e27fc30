"""`capture`, `validate` and `score` where indexers select units, and of decode steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from indexer_lab.cli import main
from indexer_lab.store.capture import open_capture
from indexer_lab.store.scores import open_scores
from indexer_probes.tiny import tiny_config

TYPES = [name for name in ("deepseek_v4", "minimax_m3_vl", "qwen4_exp", "glm_moe_dsa")
         if name in CONFIG_MAPPING_NAMES]  # fmt: skip


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def saved(name: str, folder: Path) -> Path:
    torch.manual_seed(4)
    config = tiny_config(name)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    lines = [
        json.dumps({"id": name, "input_ids": torch.randint(3, 64, (length,)).tolist()})
        for name, length in (("one", 37), ("two", 30))
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("name", TYPES)
def test_from_a_model_to_both_levels(name: str, prompts: Path, tmp_path: Path) -> None:
    model, folder, scores = saved(name, tmp_path / "model"), tmp_path / "capture", tmp_path / "s"
    made = run("capture", "--model", model, "--prompts", prompts, "--positions", "last:12",
               "--values", "-o", folder)  # fmt: skip
    assert made.exit_code == 0, made.output
    proofs = run("validate", folder, "--json")
    assert proofs.exit_code == 0, proofs.output
    indexers = {proof["layer"]: proof["indexer"] for proof in json.loads(proofs.stdout)}
    if name == "glm_moe_dsa":
        assert indexers == {0: "own", 1: "of layer 0", 2: "own", 3: "of layer 2"}
    asked = ["--selector", "native", "--selector", "lightning", "--budget", "9", "-o", scores]
    told = run("score", folder, *asked)
    assert told.exit_code == 0, told.output
    assert ("units" in told.output) == (name != "glm_moe_dsa")
    table = open_scores(scores).frame()
    levels = {"token"} if name == "glm_moe_dsa" else {"token", "unit"}
    assert set(table["level"]) == levels
    assert set(open_scores(scores).tokens(["recall"]).columns) == {"recall"}
    if name == "minimax_m3_vl":
        assert run("figures", scores, "-o", tmp_path / "f").exit_code == 0


def test_layers_without_softmax_attention_are_left_out(prompts: Path, tmp_path: Path) -> None:
    if "qwen4_exp" not in CONFIG_MAPPING_NAMES:
        return
    model, folder = saved("qwen4_exp", tmp_path / "model"), tmp_path / "capture"
    assert run("capture", "--model", model, "--prompts", prompts, "-o", folder).exit_code == 0
    assert open_capture(folder).layers == [1, 2, 3]
    refused = run("capture", "--model", model, "--prompts", prompts, "--layers", "0", "-o", "x")
    assert refused.exit_code == 2
    assert "layer 0 has no softmax attention; layers 1, 2, 3 have" in refused.output


def test_decode_steps_resume_to_the_same_capture(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved("deepseek_v32", tmp_path / "model")
    asked = ["capture", "--model", model, "--prompts", prompts, "--positions", "last:6",
             "--decode", "3", "--values"]  # fmt: skip
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(*asked, "-o", whole).exit_code == 0
    taken = open_capture(whole)
    assert [sample.length for sample in taken.samples] == [40, 33]
    assert taken.manifest["decode"] == 3
    record = taken.record(taken.samples[0], 1)
    assert record.positions.tolist() == [31, 32, 33, 34, 35, 36, 37, 38, 39]
    assert record.length == 40
    ids = json.loads(taken.generated(taken.samples[0]).read_text())
    assert len(ids) == 3
    assert run("validate", whole).exit_code == 0

    from indexer_lab.store import capture as store

    save, calls = store.records.save, []

    def interrupted(*args: object) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        save(*args)

    with monkeypatch.context() as patched:
        patched.setattr(store.records, "save", interrupted)
        assert run(*asked, "-o", stopped).exit_code != 0
    assert run(*asked, "-o", stopped, "--resume").exit_code == 0
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(stopped) for p in stopped.rglob("*") if p.is_file())
    for file in files:
        assert (whole / file).read_bytes() == (stopped / file).read_bytes(), file


@pytest.mark.parametrize(
    ("name", "steps", "reason"),
    [
        ("deepseek_v4", "2", "decode steps of deepseek_v4 cannot be captured: its cache drops"),
        ("deepseek_v32", "100", "prompt 'one' has 37 tokens and the model takes 128; decode at"),
    ],
)
def test_decoding_that_cannot_be_is_refused_before_anything_is_written(
    name: str, steps: str, reason: str, prompts: Path, tmp_path: Path
) -> None:
    model = saved(name, tmp_path / "model")
    out = run("capture", "--model", model, "--prompts", prompts, "--decode", steps, "-o",
              tmp_path / "c")  # fmt: skip
    assert out.exit_code == 2
    assert reason in " ".join(out.output.split())
    assert not (tmp_path / "c").exists()


def test_a_model_with_encoders_is_captured_from_its_folder(prompts: Path, tmp_path: Path) -> None:
    if "mistral_large4" not in CONFIG_MAPPING_NAMES:
        return
    from transformers import AutoConfig

    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "head_dim": 8, "image_size": 28}  # fmt: skip
    text = tiny_config("mistral_large4").to_dict()
    config = AutoConfig.for_model("mistral_large4", text_config=text, vision_config=vision)
    made = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    made.save_pretrained(tmp_path / "model")
    out = run("capture", "--model", tmp_path / "model", "--prompts", prompts, "-o", tmp_path / "c")
    assert out.exit_code == 0, out.output
    assert run("validate", tmp_path / "c").exit_code == 0
