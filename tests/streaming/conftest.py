"""A published checkpoint made once, prompts, and the command as a user runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from indexer_lab.cli import main

from .published import write_pair

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of one DeepSeek-V3.2: FP8 as published, and bfloat16 as transformers reads it."""
    torch.set_num_threads(1)
    return write_pair(tmp_path_factory.mktemp("published"))


@pytest.fixture
def published(pair: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the FP8 checkpoint that a test may damage."""
    return Path(shutil.copytree(pair[0], tmp_path / "model"))


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts of token ids, 40 and 56 long."""
    generator = torch.Generator().manual_seed(1)
    lines = [
        {"id": name, "input_ids": torch.randint(0, 64, (length,), generator=generator).tolist()}
        for name, length in (("one", 40), ("two", 56))
    ]
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture
def run(prompts: Path) -> Run:
    """`indexer-lab capture` of a model on the prompts."""

    def run(model: Path, output: Path, *more: str) -> Result:
        words = ["capture", "--model", model, "--prompts", prompts, "-o", output, *more]
        return CliRunner().invoke(main, [str(word) for word in words])

    return run


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """What a capture's tensor files hold, by their place in it."""

    def contents(folder: Path) -> dict[str, bytes]:
        files = sorted(folder.rglob("*.safetensors"))
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}

    return contents
