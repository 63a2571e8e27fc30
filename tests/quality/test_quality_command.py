"""`indexer-lab quality` on a small random model: what it says, and that it can be stopped."""

import hashlib
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import LlamaConfig, LlamaForCausalLM

from indexer_lab.capturing import Encoded
from indexer_lab.cli import main
from indexer_lab.quality.forward import Clock, generate, prefill
from indexer_lab.quality.running import measure
from indexer_lab.quality.subject import Subject
from indexer_lab.quality.trial import DENSE, Protocol
from indexer_lab.store.capture import SampleInfo
from indexer_lab.store.quality import SCHEMA, Quality, open_quality
from indexer_probes.steering import steer

LENGTHS = (30, 44)
TOKENS = 5
EVERY_KEY = max(LENGTHS) + TOKENS
ROPE = {"rope_type": "default", "rope_theta": 1e4}


def run(*words):
    return CliRunner().invoke(main, ["quality", *(str(word) for word in words)])


def small_model():
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.3}
    config = LlamaConfig(**shape, num_key_value_heads=2, rope_parameters=ROPE)
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    small_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    draw = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, 64, (length,), generator=draw).tolist() for length in LENGTHS]
    lines = [{"id": f"p{n}", "task": "noise", "input_ids": each} for n, each in enumerate(ids)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(scope="module")
def words(model_folder, prompts):
    asked = ["--selector", "dial:precision=0.5", "--budget", f"4,{EVERY_KEY}", "--swap-layers", "1"]
    modes = [word for mode in ("replay", "decode", "prefill+decode") for word in ("--mode", mode)]
    return ["--model", model_folder, "--prompts", prompts, "--tokens", TOKENS, *asked, *modes]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "quality"
    done = run(*words, "-o", folder)
    assert done.exit_code == 0, done.output
    assert "replay, 2 samples" in done.output
    return folder


def digests(folder):
    """Of what must not change: not of the speeds."""
    paths = [path for kind in ("parts", "entropy") for path in (folder / kind).glob("*.parquet")]
    return {f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def test_the_rows_are_those_that_were_asked_for(whole):
    frame = open_quality(whole).frame()
    assert list(frame.columns) == SCHEMA.names
    keys = ["sample", "mode", "selector", "budget", "layer"]
    assert not frame.duplicated(keys).any()
    labels = {"exact", "random", "sink_recent", "dial:precision=0.5"}
    assert set(frame["selector"]) == labels | {DENSE}
    assert len(frame) == 2 * 3 * (1 + 4 * 2 * 2)  # samples, modes, selectors, budgets, layers
    assert set(frame["length"]) == set(LENGTHS)
    assert frame["depth"].isna().all()
    assert (frame["tokens"].between(1, TOKENS)).all()
    replayed = frame[frame["mode"] == "replay"]
    assert (replayed[["nll", "delta_nll", "kl", "agreement"]].notna()).all(axis=None)
    assert frame.loc[frame["mode"] != "replay", ["nll", "kl"]].isna().all(axis=None)


def test_a_budget_of_every_key_costs_nothing_at_all(whole):
    frame = open_quality(whole).frame()
    replayed = frame[frame["mode"] == "replay"]
    free = replayed[(replayed["budget"] == EVERY_KEY) | (replayed["selector"] == DENSE)]
    assert (free["kl"] == 0).all()
    assert (free["delta_nll"] == 0).all()
    assert (free["agreement"] == 1).all()
    dear = replayed[(replayed["budget"] == 4)]
    assert (dear["kl"] > 0).all()


def test_a_swap_of_one_layer_is_another_trial_than_all_layers(whole):
    frame = open_quality(whole).frame()
    dear = frame[(frame["mode"] == "replay") & (frame["selector"] == "random")]
    dear = dear[dear["budget"] == 4].set_index(["sample", "layer"])["kl"]
    for sample in ("p0", "p1"):
        assert dear[sample, 1] != pytest.approx(dear[sample, -1])


def test_entropy_rows_are_every_query_that_was_kept(whole):
    frame = open_quality(whole).entropy()
    keys = ["sample", "mode", "selector", "budget", "layer", "head", "position"]
    assert not frame.duplicated(keys).any()
    dense = frame[(frame["mode"] == "prefill")]
    assert (
        len(dense) == sum(LENGTHS[n] - 1 for n in (0, 1)) * 2 * 4
    )  # all of last:64, layers, heads
    assert set(dense["phase"]) == {"prefill"}
    assert dense["selected_entropy"].isna().all()
    steps = frame[(frame["mode"] == "decode") & (frame["selector"] == "exact")]
    made = open_quality(whole).frame()
    made = made[(made["mode"] == "decode") & (made["selector"] == "exact") & (made["layer"] == -1)]
    assert len(steps) == made["tokens"].sum() * 2 * 4
    assert set(steps["phase"]) == {"decode"}
    chosen = frame[(frame["selector"] == "random") & (frame["budget"] == 4)]
    assert (chosen["selected_effective_support"] <= 4.001).all()
    assert (chosen["mass"] <= 1.0001).all()
    assert set(chosen[chosen["mode"] == "prefill+decode"]["phase"]) == {"prefill", "decode"}
    every = frame[frame["budget"] == EVERY_KEY]
    np.testing.assert_allclose(every["selected_entropy"], every["entropy"], atol=1e-4)


def test_stopped_and_resumed_gives_the_same_bytes(words, whole, tmp_path, monkeypatch):
    real, saved = Quality.save, []

    def stop_at_second(self, sample, sheets):
        saved.append(sample.id)
        if len(saved) == 2:
            raise KeyboardInterrupt
        real(self, sample, sheets)

    monkeypatch.setattr(Quality, "save", stop_at_second)
    assert run(*words, "-o", tmp_path / "q").exit_code == 130
    assert list(digests(tmp_path / "q")) == ["parts/p0.parquet", "entropy/p0.parquet"]
    assert run(*words, "-o", tmp_path / "q", "--resume").exit_code == 0
    assert saved == ["p0", "p1", "p1"]
    assert digests(tmp_path / "q") == digests(whole)
    other = run(*words, "-o", tmp_path / "q", "--resume", "--seed", 1)
    assert other.exit_code == 2
    assert "seed: 0 -> 1" in other.stderr


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (["--mode", "repaly"], "did you mean 'replay'"),
        (["--tokens", "0"], "--tokens 0: expected 1 or more"),
        (["--batch", "0"], "--batch 0: expected 1 or more"),
        (["--entropy", "first:3"], "--entropy 'first:3': expected last:N"),
        (["--tokens", "21"], "has 44 tokens, and the model takes 64: no room for --tokens 21"),
        (["--budget", "900"], "--budget 900 is over"),
        (["--selector", "dail:precision=1"], "did you mean 'dial'"),
        (["--selector", "lightning"], "needs indexer tensors"),
        (["--swap-layers", "2"], "layers 0 to 1"),
    ],
)
def test_wrong_input_is_one_line(model_folder, prompts, tmp_path, change, complaint):
    settings = ["--model", model_folder, "--prompts", prompts, "--budget", "4", *change]
    done = run(*settings, "-o", tmp_path / "q")
    assert done.exit_code == 2, done.output
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


class Letters:
    """A tokenizer of one letter a token."""

    def decode(self, ids, skip_special_tokens):
        return "".join(chr(60 + token) for token in ids)


def outcome(model, tokenizer, ids, answer, budget):
    """The score of the dense and the exact run in decode mode."""
    subject = Subject(model, tokenizer, Encoded(ids, SampleInfo("a", "noise", len(ids), answer)))
    measure([subject], Protocol(("decode",), (), (budget,), (), 6))
    rows = {row["selector"]: row["score"] for row in subject.rows}
    return rows[DENSE], rows["exact"]


def test_decode_is_transformers_own_greedy_decoding_and_is_scored_on_the_answer():
    model = small_model()
    ids = torch.randint(3, 60, (20,), generator=torch.Generator().manual_seed(2))
    truth = model.generate(ids[None], max_new_tokens=6, do_sample=False, eos_token_id=None)
    truth = truth[0, 20:].tolist()
    clock = Clock(model.device)
    with steer(model, [], layers=()):
        made = generate(
            model, [prefill(model, ids)], [int(ids[-1])], 6, [lambda made: False], clock
        )
    assert made == [truth]
    assert clock.seconds > 0
    model.generation_config.eos_token_id = None
    for answer, score in ((Letters().decode(truth, True).strip(), 1.0), ("wrong", 0.0)):
        assert outcome(model, Letters(), ids, answer, 26) == (score, score)
    assert np.isnan(outcome(model, None, ids, "x", 26)).all()
