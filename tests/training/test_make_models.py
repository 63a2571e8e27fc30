"""The script that trains the shipped models, on two tiny ones; one starts from the other."""

from __future__ import annotations

import csv
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "analyses" / "training" / "make_models.py"
PLAN = {
    "phases": [{"length": 48, "batch": 1, "steps": 1}],
    "lr": 0.01,
    "tasks": {"single_needle": 1},
    "tokenizer": {"vocabulary": 300, "files": 4},
    "model": {
        "family": "llama",
        "config": {
            **{"vocab_size": 300, "hidden_size": 16, "intermediate_size": 16},
            **{"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
        },
    },
}


@pytest.fixture
def script(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("make_models", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_models", module)
    spec.loader.exec_module(module)
    stages = {
        "tuned": (module.Stage("sft", "tiny", ("--attention", "topk:k=4", "--device", "cpu")),),
        "base": (module.Stage("pretrain", "tiny", ("--device", "cpu")),),
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PLAN))
    monkeypatch.setattr(module, "STAGES", stages)
    monkeypatch.setattr(module, "BASES", {"tuned": "base"})
    monkeypatch.setattr(module, "PLANS", tmp_path)
    return module


def test_a_tuned_model_waits_for_its_base_and_a_second_run_does_nothing(script, tmp_path, capsys):
    assert script.order(["tuned", "base", "tuned"]) == ["base", "tuned"]
    shop = script.Workshop(tmp_path, resume=True)
    with ThreadPoolExecutor(2) as pool:
        base = pool.submit(shop.train, "base")
        tuned = pool.submit(shop.train, "tuned", base)
    assert tuned.result() == tmp_path / "tuned" / "1-sft" / "model"
    assert script.base_of("tuned", tmp_path) == base.result()
    with (tmp_path / "make_models.csv").open() as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["base", "tuned"]
    capsys.readouterr()
    assert shop.train("tuned") == tuned.result()
    assert capsys.readouterr().out == ""


def test_a_stage_that_fails_ends_with_what_it_said(script, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**PLAN, "lr": -1}))
    with pytest.raises(SystemExit, match=r"base, tiny: error: .*lr is -1: expected"):
        script.Workshop(tmp_path, resume=False).train("base")
