"""Whole stages on small models: they learn, they resume, they leave a curve and a checkpoint."""

from __future__ import annotations

import csv
import json

import pytest
import torch
import yaml
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from indexer_lab.cli.train import command
from indexer_lab.errors import InputError
from indexer_lab.training import models
from indexer_lab.training.attention import TopK
from indexer_lab.training.config import plan_of, read_plan
from indexer_lab.training.data import IGNORE, Stream
from indexer_lab.training.stages import finetune, sparsify, warm_up


def curve(folder):
    with (folder / "curve.csv").open() as file:
        return list(csv.DictReader(file))


def mean(rows, name):
    return sum(float(row[name]) for row in rows) / len(rows)


def test_200_steps_lower_the_loss_and_raise_the_recall(dsa, plan, tokenizer, tmp_path):
    finetune(plan(steps=100, length=96), dsa, tokenizer, tmp_path / "dense")
    dense = curve(tmp_path / "dense")
    assert len(dense) == 100
    assert mean(dense[-10:], "loss") < 0.75 * mean(dense[:10], "loss")
    before = {name: p.clone() for name, p in dsa.named_parameters() if ".indexer." not in name}
    warm_up(plan(steps=100, length=96, lr=0.01), dsa, tokenizer, tmp_path / "warm")
    warm = curve(tmp_path / "warm")
    assert mean(warm[-10:], "loss") < 0.7 * mean(warm[:3], "loss")
    assert mean(warm[-10:], "recall") > mean(warm[:3], "recall") + 0.1
    assert all(torch.equal(p, before[n]) for n, p in dsa.named_parameters() if n in before)


def test_the_sparse_stage_lowers_the_loss(dsa, plan, tokenizer, tmp_path):
    sparsify(plan(steps=30), dsa, tokenizer, tmp_path)
    rows = curve(tmp_path)
    assert mean(rows[-5:], "text") < mean(rows[:5], "text")


class Stopped(Exception):
    """What ends a run in the middle."""


@pytest.mark.parametrize("attention", [None, TopK(k=8)])
def test_a_stopped_run_goes_on_with_the_same_curve(
    llama, plan, tokenizer, tmp_path, monkeypatch, attention
):
    given = {} if attention is None else {"attention": attention}
    start = {name: value.clone() for name, value in llama.state_dict().items()}
    finetune(plan(steps=6), llama, tokenizer, tmp_path / "whole", **given)
    weights = {name: value.clone() for name, value in llama.state_dict().items()}

    def stop(stream, phase, step, rank=0, batch=Stream.batch):
        if step == 3:
            raise Stopped
        return batch(stream, phase, step, rank)

    llama.load_state_dict(start)
    often = plan(steps=6, save=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Stream, "batch", stop)
        with pytest.raises(Stopped):
            finetune(often, llama, tokenizer, tmp_path / "parts", **given)
    assert len(curve(tmp_path / "parts")) == 3
    finetune(often, llama, tokenizer, tmp_path / "parts", resume=True, **given)
    whole, parts = curve(tmp_path / "whole"), curve(tmp_path / "parts")
    assert [row["loss"] for row in parts] == [row["loss"] for row in whole]
    for name, value in llama.state_dict().items():
        torch.testing.assert_close(value, weights[name])


def test_a_run_is_not_started_over_another(llama, plan, tokenizer, tmp_path):
    finetune(plan(steps=1), llama, tokenizer, tmp_path)
    with pytest.raises(InputError, match="--resume"):
        finetune(plan(steps=1), llama, tokenizer, tmp_path)


def test_batches_depend_on_the_seed_and_the_step_alone(plan, tokenizer):
    made = plan()
    phase = made.phases[0]
    first, again = Stream(made, tokenizer), Stream(made, tokenizer)
    later = again.batch(phase, 5)
    assert torch.equal(first.batch(phase, 5).inputs, later.inputs)
    assert not torch.equal(first.batch(phase, 6).inputs, later.inputs)
    assert not torch.equal(first.batch(phase, 5, rank=1).inputs, later.inputs)
    assert not torch.equal(Stream(plan(seed=1), tokenizer).batch(phase, 5).inputs, later.inputs)


def test_labels_are_the_next_tokens_and_answers_are_marked(plan, tokenizer):
    made = plan(text=0.0)
    batch = Stream(made, tokenizer).batch(made.phases[0], 0)
    real = batch.labels != IGNORE
    assert torch.equal(batch.labels[:, :-1][real[:, :-1]], batch.inputs[:, 1:][real[:, :-1]])
    for inputs, answers, labels in zip(batch.inputs, batch.answers, batch.labels, strict=True):
        text = tokenizer.decode(inputs)
        asked = text.count("\n? ") + text.startswith("? ")
        ends = tokenizer.encode("\n", add_special_tokens=False)
        assert int(((labels == ends[0]) & answers).sum()) == asked > 0


def test_a_checkpoint_is_bfloat16_and_loads_by_transformers_alone(dsa, tokenizer, tmp_path):
    models.save(dsa, tokenizer, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is type(dsa)
    assert again.dtype == torch.bfloat16
    text = "# calm_otter is harbor\n    x = 123\n"
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.is_fast
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.decode(loaded.encode(text)) == text


def written(folder, dsa, steps=2):
    content = {
        "model": {"family": "deepseek_v32", "config": {
            key: value for key, value in dsa.config.to_dict().items()
            if key in SIZES
        }},
        "tokenizer": {"vocabulary": 1024, "files": 8},
        "phases": [{"length": 64, "batch": 2, "steps": steps}],
        "lr": 0.005,
        "tasks": {"multi_key": 1.0},
    }  # fmt: skip
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


SIZES = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "first_k_dense_replace",
    "num_attention_heads", "num_key_value_heads", "q_lora_rank", "kv_lora_rank",
    "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "index_n_heads", "index_head_dim",
    "index_topk", "tie_word_embeddings", "eos_token_id", "pad_token_id",
}  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def test_the_commands_hand_a_checkpoint_from_stage_to_stage(dsa, tmp_path):
    plan = written(tmp_path, dsa)
    shared = ["--plan", plan, "--device", "cpu", "--json"]
    result = run("pretrain", *shared, "-o", tmp_path / "pretrain")
    assert json.loads(result.stdout)["step"] == 2
    model = tmp_path / "pretrain" / "model"
    for stage, extra in (
        ("indexer-warmup", []),
        ("indexer-sparse", []),
        ("sft", ["--attention", "topk:k=8"]),
    ):
        result = run(stage, *shared, *extra, "--model", model, "-o", tmp_path / stage)
        model = tmp_path / stage / "model"
        assert json.loads(result.stdout)["model"] == str(model)
        assert (model / "model.safetensors").exists()


def test_a_stage_without_a_model_says_so(dsa, tmp_path):
    plan = written(tmp_path, dsa)
    with pytest.raises(InputError, match="no --model"):
        run("indexer-warmup", "--plan", plan, "-o", tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": 1}, "did you mean 'seed'"),
        ({"tasks": {"multikey": 1}}, "did you mean 'multi_key'"),
        ({"tasks": {"multi_key": -1}}, "weight of multi_key is -1: expected a number from 0 on"),
        ({"tasks": {"multi_key": 0}}, "every task has weight 0"),
        ({"tasks": "multi_key"}, "expected task names with their weights"),
        ({"phases": []}, r"phases is \[\]: expected at least one"),
        ({"phases": [{"length": 3}]}, "a phase is {length, batch, steps}"),
        ({"phases": [{"length": 8, "batch": 0, "steps": 1}]}, "a phase's batch is 0"),
        ({"phases": [{"length": 8, "batch": 1, "steps": -2}]}, "a phase's steps is -2"),
        ({"lr": "abc"}, "lr is 'abc': expected a number above 0"),
        ({"density": 3}, "density is 3: expected a share from 0 to 1"),
        ({"compile": 1}, "compile is 1: expected true or false"),
        ({"model": "llama"}, "model is 'llama': expected"),
        ({"tokenizer": {"vocabulary": "many", "files": 1}}, "vocabulary is 'many'"),
        ({"tokenizer": {"vocabulary": 4}}, "expected {vocabulary: N, files: N}"),
    ],
)
def test_a_bad_plan_is_refused(changes, message, fine):
    plan_of(fine)
    with pytest.raises(InputError, match=message):
        plan_of({**fine, **changes})


@pytest.mark.parametrize("missing", ["phases", "lr", "tasks"])
def test_a_plan_without_its_main_parts_is_refused(missing, fine):
    with pytest.raises(InputError, match=f"has no '{missing}'"):
        plan_of({key: value for key, value in fine.items() if key != missing})


def test_a_plan_that_is_no_mapping_is_refused():
    with pytest.raises(InputError, match="expected keys and values"):
        plan_of([1])


def test_a_missing_plan_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the training plan .*none\.yaml"):
        read_plan(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"family": "lama"}, "did you mean 'llama'"),
        ({"family": "llama", "config": {"hiden_size": 8}}, "did you mean 'hidden_size'"),
        ({"family": "llama", "config": {"hidden_size": 33}}, "33.* not a multiple"),
        ({}, "the plan has no model"),
    ],
)
def test_a_model_that_cannot_be_made_is_refused(model, message, fine):
    with pytest.raises(InputError, match=message):
        models.new_model(plan_of({**fine, "model": model}))


def test_a_model_that_does_not_fit_its_tokenizer_or_plan_is_refused(llama, tokenizer, plan):
    models.fit(llama, tokenizer, plan())
    with pytest.raises(InputError, match="trains on 1024 tokens and the model's context is 512"):
        models.fit(llama, tokenizer, plan(length=1024))
    llama.config.vocab_size = 1000
    with pytest.raises(InputError, match="1024 entries and the model's vocabulary 1000"):
        models.fit(llama, tokenizer, plan())


def test_a_device_that_is_not_there_is_refused(dsa, tmp_path):
    plan = written(tmp_path, dsa)
    with pytest.raises(InputError, match="'cuba': expected cpu, cuda"):
        run("pretrain", "--plan", plan, "-o", tmp_path / "run", "--device", "cuba")
