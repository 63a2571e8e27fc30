"""Several processes train as one does with all of their sequences."""

from __future__ import annotations

import csv
import subprocess
import sys

import torch
import yaml

from indexer_lab.training import models
from indexer_lab.training.config import plan_of
from indexer_lab.training.data import Stream

CONTENT = {"lr": 0.005, "tasks": {"multi_key": 1.0, "counting": 1.0}, "text": 0.2, "workers": 0}


def written(folder, batch, steps=4):
    plan = folder / f"plan-{batch}.yaml"
    phases = [{"length": 64, "batch": batch, "steps": steps}]
    plan.write_text(yaml.safe_dump({**CONTENT, "phases": phases}))
    return plan


def train(stage, model, plan, output, processes=1):
    launch = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone"]
    launch += [] if processes == 1 else [f"--nproc-per-node={processes}", "--no-python"]
    python = [] if processes == 1 else [sys.executable]
    command = [sys.executable, *launch, *python, "-m", "indexer_lab", "train", stage]
    given = ["--model", model, "--plan", plan, "-o", output, "--device", "cpu", "--quiet"]
    ended = subprocess.run(
        [*command, *map(str, given)], capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    with (output / "curve.csv").open() as file:
        return list(csv.DictReader(file))


def test_two_processes_give_the_curve_of_one_with_twice_the_batch(dsa, tokenizer, tmp_path):
    models.save(dsa, tokenizer, tmp_path / "start")
    start = tmp_path / "start"
    one = train("indexer-sparse", start, written(tmp_path, 4), tmp_path / "one")
    two = train("indexer-sparse", start, written(tmp_path, 2), tmp_path / "two", processes=2)
    assert len(one) == len(two) == 4
    for name in set(one[0]) - {"seconds"}:
        ours = torch.tensor([float(row[name]) for row in two])
        alone = torch.tensor([float(row[name]) for row in one])
        part = 0.03 if name == "norm" else 2e-3  # products in bfloat16 round with the batch
        torch.testing.assert_close(ours, alone, rtol=part, atol=part, msg=lambda m, n=name: n + m)
    assert (tmp_path / "two" / "model" / "model.safetensors").exists()


def test_two_shares_of_a_batch_make_the_whole(tokenizer):
    whole = plan_of({**CONTENT, "phases": [{"length": 64, "batch": 4, "steps": 1}]})
    half = plan_of({**CONTENT, "phases": [{"length": 64, "batch": 2, "steps": 1}]})
    stream = Stream(half, tokenizer)
    shares = [stream.batch(half.phases[0], 3, rank) for rank in (0, 1)]
    inputs = torch.cat([share.inputs for share in shares])
    assert torch.equal(inputs, Stream(whole, tokenizer).batch(whole.phases[0], 3).inputs)
