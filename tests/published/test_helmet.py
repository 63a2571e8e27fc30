"""HELMET's published files, written by the tests: what is asked, in which words, how it scores."""

import math

import datasets
import pytest
from click.testing import CliRunner

from indexer_lab.cli import main
from indexer_lab.published.helmet import HelmetExam, questions
from indexer_lab.published.helmet_data import read
from indexer_lab.published.helmet_scores import found, normal, recall
from indexer_lab.published.helmet_tasks import GROUPS, LENGTHS, TASKS, tasks_of
from indexer_lab.quality.trial import DENSE, Trial
from indexer_lab.store.quality import open_quality

from .conftest import write_jsonl

LENGTH = 8192


def documents(*titles):
    return [{"id": str(n), "title": each, "text": f"{each} is a place."}
            for n, each in enumerate(titles)]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three rows of every kind, as HELMET's data folder holds them."""
    root = tmp_path_factory.mktemp("helmet") / "data"
    write_jsonl(root / "json_kv" / "test_k105_dep6.jsonl", [
        {"context": '{"k0": "v0", "k1": "v1", "k2": "v2"}', "question": f"k{n}", "answer": f"v{n}",
         "num_kvs": 3, "depth": n / 2, "demos": [["d0", "e0"], ["d1", "e1"], ["d2", "e2"]]}
        for n in range(3)
    ])  # fmt: skip
    write_jsonl(root / "ruler" / "niah_multivalue" / "validation_8192.jsonl", [
        {"context": "One is 123. Another is 45.", "query": f"q{n}", "type_needle_v": "numbers",
         "answer": ["123", "45"]}
        for n in range(3)
    ])  # fmt: skip
    write_jsonl(root / "ruler" / "vt" / "validation_8192.jsonl", [
        {"context": "VAR A = 12", "query": "12", "num_v": 2, "example": "An example.",
         "outputs": ["A", "B"]}
    ])  # fmt: skip
    for name, split in (("dev", 50), ("train", 3)):
        write_jsonl(root / "kilt" / f"nq-{name}-multikilt_1000_k{split}_dep6.jsonl", [
            {"id": f"{name}{n // 2}", "question": f"where {name} {n // 2}?",
             "ctxs": documents("Rome"), "answers": ["Rome", "Roma"], "depth": n % 2}
            for n in range(6)
        ])  # fmt: skip
    for split in (50, 3):
        write_jsonl(root / "kilt" / f"popqa_test_1000_k{split}_dep6.jsonl", [
            {"id": n, "question": f"where {n}?", "ctxs": documents("Oslo"), "answers": ["Oslo"],
             "s_pop": 10 if n else 5000}
            for n in range(5)
        ])  # fmt: skip
    return root


def ask(data, name, tokenizer, chat=False, limit=None):
    asked = questions(data, tasks_of((name,)), LENGTH, tokenizer, limit, chat)
    return asked, [tokenizer.decode(each.ids) for each in asked]


def test_a_look_up_is_worded_as_published(data, tokenizer):
    asked, texts = ask(data, "json_kv", tokenizer)
    first = next(n for n, each in enumerate(asked) if each.info.id == "helmet-json_kv-8192-2")
    assert texts[first] == (
        '<bos>{"k0": "v0", "k1": "v1", "k2": "v2"}\n\n'
        "Extract the value corresponding to the specified key in the JSON object below.\n\n"
        "Key: d0\nCorresponding value: e0\n\nKey: d1\nCorresponding value: e1\n\n"
        "Key: k1\nCorresponding value:"
    )
    assert asked[first].answers == ["v1"]
    before = len('<bos>{"k0": "v0", "k1": "') - len("<bos>") + 1
    assert asked[first].depth == pytest.approx(before / len(asked[first].ids))


def test_needles_and_chains_are_worded_as_published(data, tokenizer):
    _, texts = ask(data, "ruler_niah_mv", tokenizer, limit=1)
    assert texts[0].startswith("<bos>Some special magic numbers are hidden within the following ")
    assert "\nOne is 123. Another is 45.\nWhat are all the special magic numbers for q" in texts[0]
    assert texts[0].endswith(" mentioned in the provided text are")
    asked, texts = ask(data, "ruler_vt", tokenizer)
    assert texts[0].startswith("<bos>An example.\n\nMemorize and track the chain(s)")
    assert texts[0].endswith("2 variables are assigned the value 12, they are:")
    assert asked[0].answers == ["A", "B"]


def test_documents_come_behind_two_other_questions(data, tokenizer):
    asked, texts = ask(data, "kilt_nq", tokenizer)
    assert len(asked) == 6
    for text in texts:
        shown = text.split("Answer: [answer]\n\n")[1].split("\n\n")
        assert shown[0] == "Document (Title: Rome): Rome is a place."
        demonstrations = [line for line in text.split("\n") if line.startswith("Question: where t")]
        assert len(set(demonstrations)) == 2
        assert text.count("\nAnswer: Rome\n") == 2
        assert text.endswith("?\nAnswer:")
    assert all(math.isnan(each.depth) for each in asked)


def test_rare_subjects_alone_are_asked_and_never_shown_their_own_answer(data, tokenizer):
    asked, texts = ask(data, "kilt_popqa_3", tokenizer)
    assert len(asked) == 4  # one of five is too popular
    for text in texts:
        own = text.rsplit("Question: ", 1)[1].split("\n")[0]
        assert text.count(own) == 1
        assert "where 0?" not in text


def test_with_a_chat_template_the_prompt_is_the_users_turn(data, tokenizer):
    asked, texts = ask(data, "json_kv", tokenizer, chat=True)
    assert all(text.startswith('<bos><user>{"k0"') for text in texts)
    assert all(text.endswith("<assistant>") for text in texts)
    assert all(each.ids.count(0) == 1 for each in asked)
    assert "Corresponding value:" in texts[0]  # in the demonstrations
    assert asked[0].begins == ""


def test_rows_are_drawn_as_datasets_would(data, tmp_path):
    same = {"context": "c", "answer": "v", "num_kvs": 1, "demos": [["a", "b"]]}
    rows = [{**same, "question": f"k{n}"} for n in range(150)]
    write_jsonl(tmp_path / "json_kv" / "test_k105_dep6.jsonl", rows)
    drawn = read(tmp_path, "json_kv", TASKS["json_kv"], LENGTH)
    truth = datasets.Dataset.from_list(rows).shuffle(seed=42).select(range(100))
    assert [each.fields["question"] for each in drawn] == truth["question"]


def test_a_long_prompt_loses_the_end_of_its_context(tmp_path, tokenizer):
    row = {
        "context": "start" + "x" * LENGTH,
        "query": "q",
        "type_needle_v": "uuids",
        "answer": ["a"],
    }
    write_jsonl(tmp_path / "ruler" / "niah_multikey_3" / "validation_8192.jsonl", [row])
    asked, texts = ask(tmp_path, "ruler_niah_mk_3", tokenizer)
    assert len(asked[0].ids) == LENGTH - TASKS["ruler_niah_mk_3"].tokens
    assert "\nstartxxx" in texts[0]
    assert texts[0].endswith("The special magic uuid".replace("uuid", "uuids") + " for q mentioned "
                             "in the provided text is")  # fmt: skip


def test_scores_by_hand():
    assert recall("It is 123 and ABC", ["123", "abc", "9"]) == pytest.approx(2 / 3)
    assert normal("The  Cat's, a dog; an Owl.") == "cats dog owl"
    assert found("Answer: It is the U.S.A!", ["usa", "France"]) == 1
    assert found("Answer: Spain", ["usa", "France"]) == 0


def test_every_task_names_a_file_at_every_length():
    paths = {task.path(length) for task in TASKS.values() for length in LENGTHS}
    assert len(paths) == len(TASKS) * len(LENGTHS)
    assert "kilt/hotpotqa-dev-multikilt_1000_k1000_dep3.jsonl" in paths
    assert "json_kv/test_k1800_dep6.jsonl" in paths
    assert all(set(names) <= set(TASKS) for names in GROUPS.values())


def test_right_and_wrong_answers_score_and_an_answer_ends_with_its_line(data, model, tokenizer):
    asked, _ = ask(data, "kilt_nq", tokenizer, limit=1)
    exam = HelmetExam(model, tokenizer, asked[0])
    assert exam.measure(Trial("decode", DENSE, 0))["score"] == 0
    said = tokenizer.decode(exam._dense, skip_special_tokens=True)
    asked[0].answers[:] = ["nobody says this", said]
    assert normal(said)
    assert exam.measure(Trial("decode", "exact", 2000))["score"] == 1
    assert exam._ends([*tokenizer("Rome")["input_ids"], *tokenizer("\n")["input_ids"]])
    assert not exam._ends(tokenizer("Rome")["input_ids"])


def test_helmet_gives_quality_rows(data, model_folder, tokenizer, tmp_path):
    names = ("ruler_niah_mv", "kilt_nq")
    asked = questions(data, tasks_of(names), LENGTH, tokenizer, 1, False)
    every = max(len(each.ids) + each.task.tokens for each in asked)
    words = ["--task", "helmet:ruler_niah_mv", "--task", "helmet:kilt_nq", "--limit", "1"]
    words += ["--data", str(data.parent), "--length", str(LENGTH), "--budget", f"8,{every}"]
    words += ["--mode", "decode", "--mode", "replay", "-o", str(tmp_path / "q")]
    done = CliRunner().invoke(main, ["quality", "--model", str(model_folder), *words])
    assert done.exit_code == 0, done.output
    frame = open_quality(tmp_path / "q").frame()
    assert set(frame["task"]) == {"helmet:ruler_niah_mv", "helmet:kilt_nq"}
    assert len(frame) == 2 * 2 * (1 + 3 * 2)
    replayed, decoded = frame[frame["mode"] == "replay"], frame[frame["mode"] == "decode"]
    assert decoded["score"].between(0, 1).all()
    assert (replayed[replayed["budget"].isin([0, every])]["kl"] == 0).all()
    assert (replayed[replayed["budget"] == 8]["kl"] > 0).all()
    assert decoded[decoded["task"] == "helmet:ruler_niah_mv"]["tokens"].max() <= 50
    assert decoded[decoded["task"] == "helmet:kilt_nq"]["tokens"].max() <= 20
