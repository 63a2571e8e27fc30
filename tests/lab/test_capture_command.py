"""`indexer-lab capture` on small random models, through to scores and figures."""

import base64
import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import (
    DeepseekV32Config,
    DeepseekV32ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from indexer_lab.cli import main
from indexer_lab.store.capture import open_capture

ROPE = {"rope_type": "default", "rope_theta": 1e4}


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of random models: `dsa` with an indexer, `llama` without, `mamba` no attention."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 96}
    dsa = DeepseekV32Config(
        **shape, num_key_value_heads=4, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8, first_k_dense_replace=2, index_topk=8, index_head_dim=16,
        index_n_heads=8, n_routed_experts=2, rope_parameters=ROPE,
    )  # fmt: skip
    DeepseekV32ForCausalLM(dsa).save_pretrained(folder / "dsa")
    llama = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2))
    llama.save_pretrained(folder / "llama")
    with torch.no_grad():
        llama.model.layers[1].self_attn.q_proj.weight[0, 0] = torch.nan
    llama.save_pretrained(folder / "broken")
    mamba = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1)
    MambaForCausalLM(mamba).save_pretrained(folder / "mamba")
    return folder


@pytest.fixture
def prompts(tmp_path):
    """Two prompts of token ids, 40 and 56 long."""
    torch.manual_seed(1)
    lines = [
        {"id": name, "task": "noise", "input_ids": torch.randint(0, 64, (length,)).tolist()}
        for name, length in (("one", 40), ("two", 56))
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def tensors(folder):
    """name -> sha256 of every tensor file"""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }


@pytest.mark.parametrize("model", ["dsa", "llama"])
def test_from_a_model_to_figures(models, prompts, tmp_path, model):
    taken, scores, out = tmp_path / "capture", tmp_path / "scores", tmp_path / "out"
    words = ["--model", models / model, "--prompts", prompts, "--positions", "last:12", "--values"]
    done = run("capture", *words, "-o", taken)
    assert done.exit_code == 0, done.output
    assert run("validate", taken).exit_code == 0
    sample = open_capture(taken).samples[1]
    record = open_capture(taken).record(sample, 1)
    assert record.positions.tolist() == list(range(44, 56))
    assert record.keys.values() is not None
    selector = "lightning" if model == "dsa" else "quantised:precision=int4"
    done = run("score", taken, "--selector", selector, "--budget", "4,8", "-o", scores)
    assert done.exit_code == 0, done.output
    done = run("figures", scores, "-o", out, "--json")
    assert done.exit_code == 0, done.output
    readings = json.loads(done.stdout)
    assert len(readings) >= 7
    for name in readings:
        for suffix in ("png", "svg", "csv", "json"):
            assert (out / f"{name}.{suffix}").stat().st_size > 0
        origin = json.loads((out / f"{name}.json").read_text())["provenance"]
        assert {"command", "commit", "versions", "inputs"} <= origin.keys()


def test_the_native_selection_is_what_lightning_finds(models, prompts, tmp_path):
    assert run("capture", "--model", models / "dsa", "--prompts", prompts, "-o",
               tmp_path / "c").exit_code == 0  # fmt: skip
    words = ["--selector", "lightning", "--selector", "native", "--budget", "8"]
    done = run("score", tmp_path / "c", *words, "-o", tmp_path / "s", "--json")
    rows = {row["selector"]: row for row in json.loads(done.stdout)}
    for stat in ("recall_mean", "recall_worst", "mass_mean"):
        assert rows["lightning"][stat] == pytest.approx(rows["native"][stat])


def test_an_engine_that_answers_with_the_captured_tokens_is_imported(models, prompts, tmp_path):
    """The whole way of a port: capture, the engine's response as vLLM spells it, import, score."""
    taken = tmp_path / "c"
    assert run("capture", "--model", models / "dsa", "--prompts", prompts, "--positions", "all",
               "-o", taken).exit_code == 0  # fmt: skip
    capture = open_capture(taken)
    given = [json.loads(line)["input_ids"] for line in prompts.read_text().splitlines()]
    lines = []
    for sample, ids in zip(capture.samples, given, strict=True):
        layers = [capture.record(sample, layer).indexer.native[0] for layer in capture.layers]
        stream = io.BytesIO()
        np.save(stream, torch.stack(layers, dim=1).numpy().astype(np.int32))
        text = base64.b64encode(stream.getvalue()).decode()
        choice = {"indexer_topk": text, "prompt_token_ids": ids}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        lines.append(json.dumps({"choices": [choice], "usage": usage}))
    (tmp_path / "vllm.jsonl").write_text("\n".join(lines))
    assert run("import-selection", taken, tmp_path / "vllm.jsonl").exit_code == 0
    label = f"recorded:{taken / 'selections' / 'vllm.safetensors'}"
    done = run("score", taken, "--selector", "native", "--selector", label, "--budget", 8,
               "-o", tmp_path / "scores")  # fmt: skip
    assert done.exit_code == 0, done.output
    same = ("--against", tmp_path / "scores", "--against-selector", "native", "--selector", label)
    assert run("check", tmp_path / "scores", *same).exit_code == 0
    wrong = lines[0].replace(f"[{given[0][0]}, ", f"[{(given[0][0] + 1) % 64}, ")
    assert wrong != lines[0]
    (tmp_path / "other.jsonl").write_text("\n".join([wrong, lines[1]]))
    done = run("import-selection", taken, tmp_path / "other.jsonl")
    assert done.exit_code == 2
    assert "its token ids are not those of sample 'one'" in done.stderr


def test_a_real_process_and_a_second_run_give_the_same_capture(models, prompts, tmp_path):
    words = ["capture", "--model", str(models / "dsa"), "--prompts", str(prompts)]
    assert run(*words, "-o", tmp_path / "a").exit_code == 0
    program = [sys.executable, "-m", "indexer_lab", *words, "-o", str(tmp_path / "b")]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "captured 2 samples x 2 layers" in done.stdout
    assert done.stderr == ""
    assert tensors(tmp_path / "a") == tensors(tmp_path / "b")
    assert (tmp_path / "a/manifest.json").read_text() == (tmp_path / "b/manifest.json").read_text()


def test_ctrl_c_then_resume_gives_the_same_capture(models, prompts, tmp_path, monkeypatch):
    from indexer_lab.store.capture import Capture

    words = ["capture", "--model", models / "dsa", "--prompts", prompts]
    assert run(*words, "-o", tmp_path / "whole").exit_code == 0
    real, calls = Capture.save, []

    def stop_at_fourth(self, sample, record):
        calls.append(record.layer)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(self, sample, record)

    monkeypatch.setattr(Capture, "save", stop_at_fourth)
    stopped = run(*words, "-o", tmp_path / "c")
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr
    unfinished = run("validate", tmp_path / "c")
    assert unfinished.exit_code == 2
    assert "sample 'two' lacks layer 1" in unfinished.stderr
    assert run(*words, "-o", tmp_path / "c", "--resume").exit_code == 0
    assert calls == [0, 1, 0, 1, 1]  # what was whole is not captured again
    assert tensors(tmp_path / "c") == tensors(tmp_path / "whole")


def test_a_full_disk_is_known_before_the_layer_is_written(models, prompts, tmp_path, monkeypatch):
    import indexer_lab.capturing as capturing

    monkeypatch.setattr(capturing, "free_bytes", lambda folder: 10)
    done = run("capture", "--model", models / "dsa", "--prompts", prompts, "-o", tmp_path / "c")
    assert done.exit_code == 3
    assert "0 MB free" in done.stderr
    assert not tensors(tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (["--model", "needle-das"], "unknown model 'needle-das': did you mean 'needle-dsa'?"),
        (["--model", "{models}/mamba"], "no probe for model type 'mamba'"),
        (["--model", "{models}/nothing"], "nothing"),
        (["--layers", "0,2"], "layers 0 to 1"),
        (["--positions", "first:3"], "--positions 'first:3'"),
        (["--prompts", "{tmp}/none.jsonl"], "does not exist"),
        (["--prompts", "{tmp}/long.jsonl"], "has 97 tokens and the model takes 96"),
        (["--prompts", "{tmp}/alien.jsonl"], "token id 64 and the model knows ids 0 to 63"),
        (["--prompts", "{tmp}/text.jsonl"], "tokenizer"),
        (["--prompts", "{tmp}/twice.jsonl"], "line 2: id 'a' is already used on line 1"),
        (["--task", "multi_key"], "give either --prompts FILE or --task NAME"),
        (["--device", "cuda:9"], "cuda:9"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    models, prompts, tmp_path, monkeypatch, change, complaint
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lines = {
        "long": [{"id": "a", "input_ids": [1] * 97}],
        "alien": [{"id": "a", "input_ids": [64]}],
        "text": [{"id": "a", "text": "hello"}],
        "twice": [{"id": "a", "input_ids": [1]}] * 2,
    }
    for name, content in lines.items():
        text = "\n".join(json.dumps(line) for line in content)
        (tmp_path / f"{name}.jsonl").write_text(text)
    settings = {"--model": str(models / "llama"), "--prompts": str(prompts)}
    given = {key: value.format(models=models, tmp=tmp_path) for key, value in [change]}
    words = [word for pair in (settings | given).items() for word in pair]
    done = run("capture", *words, "-o", tmp_path / "c")
    assert done.exit_code == 2, done.output
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not tensors(tmp_path / "c")


def test_nan_names_the_layer_and_what_was_whole_stays(models, prompts, tmp_path):
    done = run("capture", "--model", models / "broken", "--prompts", prompts, "-o", tmp_path / "c")
    assert done.exit_code == 2
    assert "layer 1" in done.stderr
    assert "NaN" in done.stderr
    assert list(tensors(tmp_path / "c")) == ["samples/one/layer-00.safetensors"]
