"""Selectors in the loop on small random models: grouped queries, windows and sinks, latent keys."""

import json

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoConfig, AutoModelForCausalLM

from indexer_lab.cli import main
from indexer_lab.quality.forward import replay_alone
from indexer_lab.quality.trial import Trial
from indexer_lab.selectors import selector
from indexer_lab.store.quality import open_quality
from indexer_probes.steering import steer

from .test_batch import MODELS

CONTENT = (
    *("quest:page=4", "block_mean:block=4", "hierarchical:block=4", "sparq:channels=4"),
    *("loki:rank=4", "double_sparsity:channels=4", "reuse:layer=1"),
)
INDEXED = ("index_heads:heads=2", "index_heads:heads=2,by=layer", "reuse:layer=1,of=lightning")
LENGTH, TOKENS = 40, 3
EVERY_KEY = LENGTH + TOKENS


def build(kind):
    torch.manual_seed(0)
    shape = {**MODELS[kind], "num_hidden_layers": 3}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape)).eval()


def prompt(count=LENGTH):
    return torch.randint(3, 64, (count,), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", MODELS)
def test_every_selector_runs_in_every_mode_and_loses_nothing_with_every_key(kind, tmp_path):
    build(kind).save_pretrained(tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"id": "p", "input_ids": prompt().tolist()}))
    labels = CONTENT + (INDEXED if kind == "deepseek_v32" else ())
    words = ["quality", "--model", tmp_path / "model", "--prompts", prompts, "--tokens", TOKENS]
    words += ["--budget", f"5,{EVERY_KEY}", "--swap-layers", "2", "--entropy", "none", "--quiet"]
    words += [word for name in labels for word in ("--selector", name)]
    words += [word for name in ("replay", "decode", "prefill+decode") for word in ("--mode", name)]
    done = CliRunner().invoke(main, [*map(str, words), "-o", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    frame = open_quality(tmp_path / "run").frame()
    replayed = frame[frame["mode"] == "replay"].set_index(["selector", "budget", "layer"])["kl"]
    for label in labels:
        for layer in (-1, 2):
            assert replayed[label, EVERY_KEY, layer] == 0
            assert replayed[label, 5, layer] > 0


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_reused_selection_is_the_one_the_earlier_layer_made(layer):
    """Held against a steering by hand, in which layer 2 attends to layer 1's exact keys."""
    model, ids = build("llama"), prompt()
    held = {}

    def choose(record):
        held[record.layer] = selector("exact").fit(record).top(5)
        if layer == -1 or record.layer == 2:
            return held[min(record.layer, 1)]
        return torch.arange(record.length).expand(1, record.rows, -1)

    with steer(model, [], layers=()):
        dense = replay_alone(model, ids, [3, 4, 5])
    with steer(model, choose, first=LENGTH - 1):
        by_hand = replay_alone(model, ids, [3, 4, 5])
    trial = Trial("replay", "reuse:layer=1", 5, layer)
    with steer(model, trial.choose(), trial.layers, trial.first(LENGTH)):
        reused = replay_alone(model, ids, [3, 4, 5])
    assert torch.equal(reused, by_hand)
    assert not torch.equal(reused, dense)
