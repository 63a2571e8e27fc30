"""Every generic property over every task."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from indexer_lab.errors import InputError
from indexer_lab.tasks import TASKS, matches, prompts
from indexer_lab.tasks.plant import NEAR
from indexer_lab.tasks.prompts import draw, ruler_of
from indexer_lab.tasks.words import VALUES, keys

LENGTH = 1200
KEY = re.compile(r"\b[a-z]+_[a-z]+\b")


def pieces(text: str) -> int:
    """A tokenizer's stand-in: words and single marks."""
    return len(re.findall(r"\w+|\W", text))


def test_a_tokenizer_measures_as_its_encode_does():
    class Bytes:
        def encode(self, text: str, add_special_tokens: bool) -> bytes:
            assert not add_special_tokens
            return text.encode()

    (sample,) = prompts("multi_key", Bytes(), 2000, 1)
    assert sample.tokens == len(sample.text.encode())


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_samples(task):
    first, again = (
        list(prompts(task, pieces, LENGTH, 3, 7)),
        list(prompts(task, pieces, LENGTH, 3, 7)),
    )
    assert first == again
    assert list(prompts(task, pieces, LENGTH, 2, 7)) == first[:2]
    assert len({sample.text for sample in [*first, *prompts(task, pieces, LENGTH, 3, 8)]}) == 6


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_fills_its_length_and_no_more(task):
    for sample in prompts(task, pieces, LENGTH, 4):
        total = pieces(sample.text) + pieces(f" {sample.answer}\n")
        assert sample.tokens == pieces(sample.text)
        assert LENGTH - 120 < total <= LENGTH


@pytest.mark.parametrize("task", TASKS)
def test_a_measure_that_is_not_additive_still_fits(task):
    for sample in prompts(task, lambda text: pieces(text) + 9 * text.count("\n# "), LENGTH, 2):
        assert sample.tokens + pieces(sample.answer) <= LENGTH


@pytest.mark.parametrize("task", TASKS)
def test_needles_are_whole_lines_of_the_context_in_order(task):
    for sample in prompts(task, pieces, LENGTH, 4):
        assert sample.needles
        context = sample.text[: sample.text.rindex("\n") + 1]
        places = [(needle.start, needle.end) for needle in sample.needles]
        assert places == sorted(places)
        for needle in sample.needles:
            assert needle.start == 0 or context[needle.start - 1] == "\n"
            assert context[needle.end] == "\n"
            assert "\n" not in context[needle.start : needle.end]
            assert 0 <= needle.depth <= 1
            assert needle.depth == pytest.approx(needle.start / len(context))


@pytest.mark.parametrize("task", [task for task in TASKS if task != "counting"])
def test_the_answer_stands_in_the_needles(task):
    for sample in prompts(task, pieces, LENGTH, 4):
        planted = " ".join(sample.text[needle.start : needle.end] for needle in sample.needles)
        for word in re.findall(r"\w+", sample.answer):
            assert re.search(rf"\b{word}\b", planted), (word, planted)


def test_counting_counts_its_needles():
    for sample in prompts("counting", pieces, LENGTH, 8):
        key = KEY.findall(sample.text)[-1]
        assert int(sample.answer) == len(sample.needles) == sample.text.count(f"# mark {key}\n")


def test_the_common_word_is_the_most_common_one():
    for sample in prompts("common_words", pieces, LENGTH, 8):
        lines = [sample.text[needle.start : needle.end] for needle in sample.needles]
        words = " ".join(line.split(" saw ")[1] for line in lines).split()
        assert max(set(words), key=words.count) == sample.answer
        assert words.count(sample.answer) == 8


def test_several_values_come_in_the_order_of_the_text():
    for sample in prompts("multi_value", pieces, LENGTH, 8):
        lines = [sample.text[needle.start : needle.end] for needle in sample.needles]
        assert sample.answer == ", ".join(line.rsplit(" ", 1)[1] for line in lines)


def apart(sample) -> list[int]:
    """Lines of the text between two planted lines that follow each other."""
    rows = sample.text.splitlines()
    planted = [number for number, row in enumerate(rows) if re.match(r"# \w+ is \w+$", row)]
    return [later - row - 1 for row, later in pairwise(planted)]


def test_lines_planted_close_together_follow_each_other_more_often():
    def near(close: bool) -> int:
        drawn = [
            draw("multi_value", ruler_of(pieces), 12000, f"near-{n}", "train", 4, close=close)
            for n in range(4)
        ]
        assert all(len(sample.needles) == 4 for sample in drawn)
        return sum(gap <= NEAR for sample in drawn for gap in apart(sample))

    assert near(close=True) > 24 > 3 * near(close=False)  # of 60 gaps, half of them drawn near


def test_a_chain_leads_from_its_last_name_to_its_value():
    for sample in prompts("variable_tracking", pieces, LENGTH, 8):
        assigned = dict(re.findall(r"^# (\w+) = (\w+)$", sample.text, re.MULTILINE))
        name, steps = KEY.findall(sample.text)[-1], []
        while name in assigned:
            name = assigned[name]
            steps.append(name)
        assert sample.answer == " = ".join(steps)
        assert len(steps) == 4
        assert steps[-1] in VALUES


def test_an_example_to_label_is_new_and_its_noun_is_not():
    for sample in prompts("classification", pieces, LENGTH, 8):
        asked = sample.text.rsplit("? ", 1)[1].removesuffix(" ->")
        labelled = re.findall(r"^# (\w+) -> (\w+)$", sample.text, re.MULTILINE)
        assert asked not in dict(labelled)
        same = {label for key, label in labelled if key.split("_")[1] == asked.split("_")[1]}
        assert same == {sample.answer}


@pytest.mark.parametrize("task", TASKS)
def test_keys_come_from_the_split_alone(task):
    for split in ("train", "eval"):
        allowed = set(keys(split))
        for index in range(4):
            sample = draw(task, ruler_of(pieces), LENGTH, f"k-{index}", split, TASKS[task].size, 3)
            asked = sample.text.rsplit("\n", 1)[1]
            planted = [sample.text[needle.start : needle.end] for needle in sample.needles]
            named = KEY.findall(" ".join([asked, *planted]))
            assert named
            assert set(named) <= allowed


@pytest.mark.parametrize(
    ("continuation", "right"),
    [
        (" pebble\nmore", True),
        ("pebble", True),
        (" pebble ", True),
        (" pebbles\n", False),
        (" peb\nble", False),
        ("\npebble", False),
        ("", False),
        (" pebble, glass\n", False),
    ],
)
def test_a_continuation_is_right_when_its_first_line_is_the_answer(continuation, right):
    sample = next(iter(prompts("single_needle", pieces, 200, 1)))
    sample = type(sample)(**{**vars(sample), "answer": "pebble"})
    assert matches(sample, continuation) is right


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("multikey", pieces, 500, 1), "did you mean 'multi_key'"),
        (("key_value", pieces, 50, 1), r"key_value needs \d+ tokens .* length is 50"),
        (("multi_key", pieces, 500, -1), "count is -1"),
    ],
)
def test_a_mistake_names_the_value_and_the_way_out(arguments, message):
    with pytest.raises(InputError, match=message):
        list(prompts(*arguments))


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="did you mean 'eval'"):
        prompts("multi_key", pieces, 500, 1, split="evals")
