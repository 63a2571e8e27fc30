"""Two processes of torchrun on the CPU: one capture, and it is the one that a single one makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from indexer_lab.cli import main

from ..probes.conftest import build_model

MODELS = {"llama": 2, "qwen3-window": 2, "deepseek_v32": 4}  # and how many files its capture has
PROGRAM = """
import json, os, pathlib, sys, torch
from indexer_lab.cli import main
torch.set_num_threads(1)
folder, codes = pathlib.Path(sys.argv[1]), []
for words in json.loads((folder / "commands.json").read_text()):
    try:
        main(words)
    except SystemExit as left:
        codes.append(left.code or 0)
(folder / f"codes-{os.environ['RANK']}.json").write_text(json.dumps(codes))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One start of torchrun: a capture of every model, then what is refused. Folder and stderr."""
    folder = tmp_path_factory.mktemp("parallel")
    ids = torch.randint(0, 64, (29,), generator=torch.Generator().manual_seed(3)).tolist()
    (folder / "prompts.jsonl").write_text(json.dumps({"id": "one", "input_ids": ids}))
    commands = []
    for name in MODELS:
        build_model(name).save_pretrained(folder / name)
        commands.append([*words(folder, name, "spread"), "--tensor-parallel"])
    again = [*words(folder, "llama", "spread"), "--tensor-parallel"]
    commands += [again, [*again, "--resume"]]
    (folder / "commands.json").write_text(json.dumps(commands))
    (folder / "program.py").write_text(PROGRAM)
    starter = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    starter += ["--standalone", str(folder / "program.py"), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        starter, capture_output=True, text=True, env=environment, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def words(folder: Path, name: str, kind: str) -> list[str]:
    given = ["capture", "--model", folder / name, "--prompts", folder / "prompts.jsonl"]
    return [str(word) for word in [*given, "--values", "-o", folder / f"{name}-{kind}"]]


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_give_the_capture_of_one(name, ran):
    folder, _ = ran
    assert CliRunner().invoke(main, words(folder, name, "whole")).exit_code == 0
    whole, spread = folder / f"{name}-whole", folder / f"{name}-spread"
    files = sorted(file.relative_to(whole) for file in whole.rglob("*.safetensors"))
    assert len(files) == MODELS[name]
    assert files == sorted(file.relative_to(spread) for file in spread.rglob("*.safetensors"))
    for file in files:
        expected, found = load_file(whole / file), load_file(spread / file)
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert found[key].dtype == tensor.dtype, (file, key)
            torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-4)
    manifests = [json.loads((each / "manifest.json").read_text()) for each in (whole, spread)]
    assert manifests[1].pop("tensor_parallel") == 2
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("name", MODELS)
def test_validate_holds_it_against_the_model_s_own_weights(name, ran):
    folder, _ = ran
    assert CliRunner().invoke(main, ["validate", str(folder / f"{name}-spread")]).exit_code == 0


def test_one_process_speaks_and_the_other_leaves_with_it(ran):
    folder, stderr = ran
    codes = [json.loads((folder / f"codes-{rank}.json").read_text()) for rank in (0, 1)]
    assert codes[0] == [0, 0, 0, 2, 0]
    assert codes[1] == [0, 0, 0, 1, 0]
    told = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert told == [line for line in told if "already holds a run" in line]
    assert len(told) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--stream-layers", "--tensor-parallel"],
        ["--stream-layers", "--device-map", "auto"],
        ["--device-map", "auto", "--tensor-parallel"],
    ],
)
def test_ways_that_exclude_each_other(options, tmp_path):
    given = ["capture", "--model", "needle-dsa", "--prompts", str(tmp_path / "p"), "-o", "x"]
    done = CliRunner().invoke(main, [*given, *options])
    assert done.exit_code == 2
    assert "exclude each other: choose one of them" in done.stderr
