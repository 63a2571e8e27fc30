"""Training and evaluation share no file and no key."""

from __future__ import annotations

from indexer_lab.tasks import haystack
from indexer_lab.tasks.words import ADJECTIVES, NOUNS, VALUES, keys, split_of


def test_the_splits_share_no_key_and_lose_none():
    train, held = set(keys("train")), set(keys("eval"))
    assert not train & held
    assert len(train) + len(held) == len(ADJECTIVES) * len(NOUNS)
    assert 0.2 < len(held) / (len(train) + len(held)) < 0.3


def test_the_splits_share_no_file():
    train, held = haystack.files("train"), haystack.files("eval")
    assert len(held) > 50
    assert len(train) > len(held)
    assert not set(train) & set(held)


def test_no_evaluated_file_is_a_copy_of_one_to_train_on():
    held = {
        haystack.lines(path) for path in haystack.files("eval") if len(haystack.lines(path)) > 5
    }
    names = {path.name for path in haystack.files("eval")}
    twins = [path for path in haystack.files("train") if path.name in names]
    assert not held & {haystack.lines(path) for path in twins}


def test_a_name_stays_in_its_split():
    assert [split_of(name) for name in ("calm_otter", "json/decoder.py")] == ["train", "eval"]


def test_words_are_distinct_and_no_value_is_part_of_a_key():
    for words in (ADJECTIVES, NOUNS, VALUES):
        assert len(set(words)) == len(words)
    assert not set(VALUES) & {*ADJECTIVES, *NOUNS}


def test_lines_are_short_and_not_empty():
    for path in haystack.files("eval")[:20]:
        for line in haystack.lines(path):
            assert line.endswith("\n")
            assert line.strip()
            assert len(line) <= haystack.LONGEST_LINE + 1
