"""The shipped models: they load offline, by transformers alone, and still find needles."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from indexer_lab.reference import names, resolve
from indexer_lab.tasks import prompts
from indexer_lab.training.dsa import indexers_of
from indexer_lab.training.evaluation import dense, exact_match, sparse

MIB = 2**20
NEEDLES = {  # model -> length in tokens, facts, and how many of 20 fixed needles it finds at least
    "needle-dense": (1024, 32, 20),
    "needle-dense-sft": (1024, 32, 20),
    "needle-dsa": (1024, 32, 20),
    "needle-topk-sft": (1024, 32, 20),
}


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("a shipped model reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def load(name):
    folder = resolve(name)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_every_shipped_model_is_tested_here():
    assert set(NEEDLES) == set(names())


def test_other_names_are_left_alone():
    assert resolve("some/model") == "some/model"


@pytest.mark.parametrize("name", NEEDLES)
def test_a_model_loads_offline_and_is_small(name, offline):
    model, tokenizer = load(name)
    assert tokenizer.is_fast
    assert model.dtype == torch.bfloat16
    size = sum(path.stat().st_size for path in Path(resolve(name)).iterdir())
    assert size < 16 * MIB
    text = "def f(x):\n    # calm_otter is harbor\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", NEEDLES)
def test_a_model_finds_its_needles(name, offline):
    model, tokenizer = load(name)
    length, facts, least = NEEDLES[name]
    samples = list(prompts("multi_key", tokenizer, length, 20, seed=20, size=facts))
    with dense(model):
        assert exact_match(model, tokenizer, samples).right >= least
    if indexers_of(model):
        with sparse(model, length // 8):
            assert exact_match(model, tokenizer, samples, masked=True).right >= least - 1
        with sparse(model, 1):  # one key cannot do: the selection really decides
            assert exact_match(model, tokenizer, samples, masked=True).right < least // 2


def test_all_models_together_are_small():
    files = (path for name in names() for path in Path(resolve(name)).iterdir())
    assert sum(path.stat().st_size for path in files) < 48 * MIB
