"""Tasks in lm-eval's own format, run offline on local data under our attention."""

import hashlib
from contextlib import contextmanager

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from indexer_lab.cli import main
from indexer_lab.published import harness
from indexer_lab.published.exam import LmEvalExam, questions
from indexer_lab.published.steered import Steered
from indexer_lab.quality.trial import DENSE, Trial
from indexer_lab.store.quality import SCHEMA, Quality, open_quality

from .conftest import write_jsonl

TASKS = ("said", "chosen")
EVERY_KEY = 30  # BOS, the longest text below and its answer
TEXTS = ("the key of the red door", "which of these is it", "a b c d e f g", "one more of them")
MEAN = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
ACCURACY = [
    {"metric": name, "aggregation": "mean", "higher_is_better": True}
    for name in ("acc", "acc_norm")
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, tokenizer):
    """YAMLs and JSONL of a task that generates and one of choices; half of the targets are what
    the dense model says, so that scores are neither all right nor all wrong."""
    place = tmp_path_factory.mktemp("tasks")
    said = []
    for number, text in enumerate(TEXTS):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        made = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=1)
        answer = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        said.append({"question": text, "answer": answer if number % 2 else "another"})
    chosen = [
        {"question": text, "options": ["red", "blue", "x", "y"], "answer": number % 2}
        for number, text in enumerate(TEXTS)
    ]
    shared = {"dataset_path": "json", "test_split": "test", "doc_to_text": "{{question}}"}
    for name, rows, own in (
        ("said", said, {
            "output_type": "generate_until", "doc_to_target": "{{answer}}", "metric_list": MEAN,
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False},
        }),
        ("chosen", chosen, {
            "output_type": "multiple_choice", "doc_to_target": "answer", "metric_list": ACCURACY,
            "doc_to_choice": "options",
        }),
    ):  # fmt: skip
        data = write_jsonl(place / f"{name}.jsonl", rows)
        config = {"task": name, "dataset_kwargs": {"data_files": {"test": str(data)}}}
        (place / f"{name}.yaml").write_text(yaml.safe_dump({**shared, **config, **own}))
    return place


def run(*words):
    return CliRunner().invoke(main, ["quality", *(str(word) for word in words)])


@pytest.fixture(scope="module")
def words(model_folder, folder):
    named = [word for name in TASKS for word in ("--task", f"lm-eval:{name}")]
    modes = ["--mode", "decode", "--mode", "replay"]
    return ["--model", model_folder, *named, "--include-path", folder, *modes,
            "--budget", f"4,{EVERY_KEY}"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "quality"
    done = run(*words, "-o", path)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""  # lm-eval's warnings and bars are not ours
    return path


@pytest.fixture(scope="module")
def frame(whole):
    return open_quality(whole).frame()


def test_every_document_has_every_trial(frame):
    assert list(frame.columns) == SCHEMA.names
    assert set(frame["task"]) == {f"lm-eval:{name}" for name in TASKS}
    assert set(frame["sample"]) == {f"{name}-{n}" for name in TASKS for n in range(len(TEXTS))}
    assert len(frame) == 8 * 2 * (1 + 3 * 2)  # documents, modes, dense and baselines x budgets
    lengths = frame.groupby("sample")["length"].first()
    assert lengths["said-0"] == 1 + len(TEXTS[0])  # the BOS token counts


def test_dense_scores_are_those_of_lm_evals_own_run(frame, model, tokenizer, folder):
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    plain = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, backend="causal")
    truth = simple_evaluate(plain, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)
    dense = frame[(frame["selector"] == DENSE) & (frame["mode"] == "decode")]
    for name, metric in zip(TASKS, ("exact_match", "acc"), strict=True):
        expected = [each[metric] for each in truth["samples"][name]]
        found = dense[dense["task"] == f"lm-eval:{name}"].set_index("sample")["score"]
        assert [found[f"{name}-{n}"] for n in range(len(TEXTS))] == expected
    assert set(dense[dense["task"] == "lm-eval:said"]["score"]) == {0.0, 1.0}


def test_exact_at_every_key_is_dense_and_random_keys_cost(frame):
    keys = ["sample", "mode"]
    columns = ["score", "tokens", "nll", "delta_nll", "kl", "agreement"]
    dense = frame[frame["selector"] == DENSE].set_index(keys)[columns]
    for label in ("exact", "random"):
        free = frame[(frame["selector"] == label) & (frame["budget"] == EVERY_KEY)]
        free = free.set_index(keys)[columns].reindex(dense.index)
        np.testing.assert_array_equal(free.to_numpy(), dense.to_numpy())
    forced = frame[(frame["mode"] == "replay") | (frame["task"] == "lm-eval:chosen")]
    assert (forced[forced["budget"] == EVERY_KEY]["kl"] == 0).all()
    dear = forced[(forced["selector"] == "random") & (forced["budget"] == 4)]
    assert (dear["kl"] > 0).all()
    assert (dear["delta_nll"] != 0).all()


def test_generated_answers_are_scored_and_replayed_ones_are_compared(frame):
    said = frame[frame["task"] == "lm-eval:said"]
    decoded, replayed = said[said["mode"] == "decode"], said[said["mode"] == "replay"]
    assert decoded["score"].notna().all()
    assert decoded["kl"].isna().all()
    assert replayed["score"].isna().all()
    assert replayed[["nll", "kl", "agreement"]].notna().all(axis=None)
    assert said["tokens"].between(1, 6).all()
    assert set(frame[frame["task"] == "lm-eval:chosen"]["tokens"]) == {len(" red blue x y")}


def test_stopped_and_resumed_gives_the_same_bytes(words, whole, tmp_path, monkeypatch):
    real, saved = Quality.save, []

    def stop_at_third(self, sample, table):
        saved.append(sample.id)
        if len(saved) == 3:
            raise KeyboardInterrupt
        real(self, sample, table)

    monkeypatch.setattr(Quality, "save", stop_at_third)
    assert run(*words, "-o", tmp_path / "q").exit_code == 130
    assert run(*words, "-o", tmp_path / "q", "--resume").exit_code == 0
    assert saved.count("said-2") == 2
    assert len(saved) == 9
    assert digests(tmp_path / "q") == digests(whole)
    other = run(*words, "-o", tmp_path / "q", "--resume", "--limit", 2)
    assert other.exit_code == 2
    assert "samples: 8 -> 4" in other.stderr


def test_what_was_missed_on_published_prompts_joins_what_it_cost(whole, model_folder, tmp_path):
    def lab(*words):
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == 0, done.output

    prompts, capture, scores = whole / "prompts.jsonl", tmp_path / "capture", tmp_path / "scores"
    lab("capture", "--model", model_folder, "--prompts", prompts, "--positions", "last:2",
        "--values", "-o", capture)  # fmt: skip
    lab("score", capture, "--budget", "4", "--target", "per_head", "-o", scores)
    lab("relate", scores, whole, "--target", "per_head", "--mode", "replay", "--draws", "20",
        "-o", tmp_path / "relate")  # fmt: skip
    pairs = pd.read_csv(tmp_path / "relate" / "pairs.csv")
    assert set(pairs["sample"]) == {f"said-{n}" for n in range(len(TEXTS))} | {
        f"chosen-{n}" for n in range(len(TEXTS))
    }
    assert pairs[["recall", "mass", "quality"]].notna().all(axis=None)


def digests(path):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in path.rglob("*.parquet")}


@contextmanager
def listening(model):
    """The token ids of every call of the model."""
    real, heard = model.forward, []

    def forward(input_ids=None, **given):
        heard.append(input_ids[0].tolist())
        return real(input_ids=input_ids, **given)

    model.forward = forward
    try:
        yield heard
    finally:
        del model.forward


@pytest.mark.parametrize("chat", [False, True])
def test_the_token_ids_that_reach_the_model_are_lm_evals_own(model, tokenizer, folder, chat):
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    plain = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, backend="causal")
    with listening(model) as own:
        simple_evaluate(
            plain, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0,
            apply_chat_template=chat,
        )  # fmt: skip
    source = harness.Source(folder)
    tasks = harness.load(TASKS, harness.find(TASKS, source), source, tokenizer)
    lm = Steered(model, tokenizer, 1024)
    asked = questions(tasks, lm, source, None, chat)
    trials = (Trial("decode", "exact", EVERY_KEY * 3), Trial("decode", "sink_recent", 4),
              Trial("prefill+decode", "random", 4))  # fmt: skip
    for trial in trials:
        with listening(model) as ours:
            for question in asked:
                LmEvalExam(lm, source, question)._answer(trial)
        assert sorted(prompts(ours)) == sorted(prompts(own)), trial
        if trial.budget > EVERY_KEY:
            assert sorted(ours) == sorted(own)  # the same answers, so the same ids of each step
    assert len(prompts(own)) == 4 + 4 * 3  # "x" and "y" share a forward
    for question in asked:  # a choice's own tokens follow its prompt in one forward
        assert any(ids[: len(question.ids)] == question.ids for ids in own)
        assert question.info.task != "lm-eval:said" or question.ids in own
    starts = tokenizer("<user>" if chat else "")["input_ids"]
    assert all(ids[: len(starts)] == starts and ids.count(0) == 1 for ids in prompts(own))


def prompts(heard):
    """Calls of more than one token: a decode step has one."""
    return [ids for ids in heard if len(ids) > 1]


def test_the_attention_of_a_trial_is_in_place_while_lm_eval_runs(model, tokenizer, folder):
    source = harness.Source(folder)
    tasks = harness.load(TASKS, harness.find(TASKS, source), source, tokenizer)
    lm = Steered(model, tokenizer, 1024)
    for question in questions(tasks, lm, source, 1, False):
        exam = LmEvalExam(lm, source, question)
        one = exam._answer(Trial("decode", "random", 2, layer=1))
        all_layers = exam._answer(Trial("decode", "random", 2))
        if one[0].rows is not None:
            assert not one[0].rows.equal(all_layers[0].rows)
        else:
            assert one[0].tokens != all_layers[0].tokens
    assert "indexer_probes" not in str(model.config._attn_implementation)


def score_one(folder, model, tokenizer, text, trials):
    """What trials measure on the first document of a task written as `text`."""
    data = write_jsonl(folder / "rows.jsonl", [{"question": "how many of the keys"}])
    text += "task: one\ntest_split: test\ndataset_path: json\ndoc_to_text: '{{question}}'\n"
    text += f"dataset_kwargs: {{data_files: {{test: {data}}}}}\n"
    (folder / "one.yaml").write_text(text)
    source = harness.Source(folder)
    tasks = harness.load(("one",), harness.find(("one",), source), source, tokenizer)
    lm = Steered(model, tokenizer, 1024)
    exam = LmEvalExam(lm, source, questions(tasks, lm, source, 1, False)[0])
    return [exam.measure(trial) for trial in trials]


def test_a_whole_text_is_scored_in_nats(model, tokenizer, tmp_path):
    text = "output_type: loglikelihood_rolling\ndoc_to_target: '{{question}}'\n"
    text += "metric_list: [{metric: bits_per_byte}]\n"
    trials = [Trial("decode", label, k) for label, k in ((DENSE, 0), ("exact", 30), ("random", 2))]
    dense, free, dear = score_one(tmp_path, model, tokenizer, text, trials)
    twice = [0, *tokenizer("how many of the keys")["input_ids"]]  # lm-eval's BOS, the tokenizer's
    ids = torch.tensor([twice])
    assert dense["nll"] == pytest.approx(float(model(ids, labels=ids).loss), rel=1e-4)
    assert dense["tokens"] == len(twice) - 1
    assert (free["nll"], free["delta_nll"]) == (dense["nll"], 0)
    assert dear["delta_nll"] != 0
    assert np.isnan([dense["score"], dense["kl"]]).all()


def test_a_metric_that_the_task_does_not_declare_counts_where_no_other_does(
    model, tokenizer, tmp_path
):
    """RULER at a length of one's own: its metric has the length's name, the others are -1."""
    (tmp_path / "scores.py").write_text(
        "def of(doc, results):\n    return {'4096': -1.0, '1024': 0.5}\n"
    )
    text = "output_type: generate_until\ndoc_to_target: x\nprocess_results: !function scores.of\n"
    text += "metric_list: [{metric: '4096', aggregation: mean, higher_is_better: true}]\n"
    text += "generation_kwargs: {until: [], max_gen_toks: 2}\n"
    (found,) = score_one(tmp_path, model, tokenizer, text, [Trial("decode", DENSE, 0)])
    assert found["score"] == 0.5


def test_a_prompt_without_room_is_cut_as_lm_eval_does_and_told(model_folder, tmp_path):
    text = "word " * 250
    data = write_jsonl(tmp_path / "long.jsonl", [{"question": text, "answer": "x"}])
    config = {
        "task": "long", "dataset_path": "json", "test_split": "test", "metric_list": MEAN,
        "dataset_kwargs": {"data_files": {"test": str(data)}}, "output_type": "generate_until",
        "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 3},
    }  # fmt: skip
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(config))
    asked = ["--model", model_folder, "--task", "lm-eval:long", "--include-path", tmp_path]
    done = run(*asked, "--budget", 4, "-o", tmp_path / "q")
    assert done.exit_code == 0, done.output
    assert "1 of 1 prompts and their answers are over the model's 1024 tokens" in done.stderr
    assert set(open_quality(tmp_path / "q").frame()["length"]) == {1021}
