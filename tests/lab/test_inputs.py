"""What a user types: positions, layers, prompts, selector settings."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest

from indexer_lab.errors import InputError
from indexer_lab.positions import parse, parse_layers
from indexer_lab.prompts import read
from indexer_lab.selectors.settings import build


@pytest.mark.parametrize(
    ("rule", "length", "expected"),
    [
        ("last:3", 10, [7, 8, 9]),
        ("last:30", 4, [0, 1, 2, 3]),
        ("every:4", 10, [1, 5, 9]),
        ("every:1", 3, [0, 1, 2]),
        ("all", 3, [0, 1, 2]),
    ],
)
def test_positions(rule, length, expected):
    assert parse(rule).rows(length).tolist() == expected


def test_random_positions_are_increasing_distinct_and_seeded():
    rows = parse("random:50", seed=3).rows(100).tolist()
    assert rows == sorted(set(rows))
    assert len(rows) == 50
    assert rows == parse("random:50", seed=3).rows(100).tolist()
    assert rows != parse("random:50", seed=4).rows(100).tolist()


@pytest.mark.parametrize("rule", ["last", "last:0", "last:-1", "every:x", "some:3", "all:2", ""])
def test_wrong_positions_are_repeated_back(rule):
    with pytest.raises(InputError, match=f"--positions '{rule}'"):
        parse(rule)


def test_layers():
    assert parse_layers("0,3,10-12", 13) == [0, 3, 10, 11, 12]
    assert parse_layers(None, 3) == [0, 1, 2]
    for text, complaint in [
        ("4-2", "runs backwards"),
        ("0,13", "layers 0 to 12"),
        ("a", "no layer or range"),
        ("-1", "no layer or range"),
        ("", "no layer or range"),
    ]:
        with pytest.raises(InputError, match=complaint):
            parse_layers(text, 13)


GOOD = {"id": "a", "text": "hello"}


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([GOOD, "{not json"], r"line 2: broken JSON"),
        ([GOOD, GOOD], r"line 2: id 'a' is already used on line 1"),
        ([GOOD, {"id": "b"}], r"line 2: give either 'text' or 'input_ids'"),
        ([{"id": "a", "text": "x", "input_ids": [1]}], r"line 1: give either"),
        ([{"id": "", "text": "x"}], r"line 1: 'id' is ''"),
        ([{"text": "x"}], r"line 1: 'id' is None"),
        ([{"id": "a", "text": ""}], r"line 1: 'text' is ''"),
        ([{"id": "a", "input_ids": []}], r"line 1: 'input_ids' must be"),
        ([{"id": "a", "input_ids": [1, -2]}], r"line 1: 'input_ids' must be"),
        ([[1, 2]], r"line 1: expected an object"),
        (["", "   "], r"holds no prompt"),
    ],
)
def test_broken_prompts_name_the_line(tmp_path, lines, complaint):
    path = tmp_path / "prompts.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts))
    with pytest.raises(InputError, match=complaint):
        read(path)


def test_prompts_that_are_no_file_or_no_text(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "picture").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        read(tmp_path / "picture")


def test_good_prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{json.dumps(GOOD)}\n\n{{"id": 7, "input_ids": [1, 2], "task": "niah"}}\n')
    first, second = read(path)
    assert (first.id, first.text, first.input_ids) == ("a", "hello", None)
    assert (second.id, second.text, second.input_ids, second.task) == ("7", None, [1, 2], "niah")
    assert read(path, limit=1) == [first]


@dataclass(frozen=True)
class Sample:
    """Settings of every kind."""

    factory: str = "Flat"
    probes: int | None = None
    share: float = 0.5
    exact: bool = True
    precision: Literal["fp8", "int8"] = "fp8"


@dataclass(frozen=True)
class Needy:
    """A setting without a default."""

    path: str


TABLE = {"sample": Sample, "needy": Needy}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sample", Sample()),
        ("sample:IVF256,PQ32:probes=16", Sample("IVF256,PQ32", 16)),
        ("sample:precision=int8,share=0.25", Sample(precision="int8", share=0.25)),
        ("sample:probes=none:exact=false", Sample(exact=False)),
    ],
)
def test_settings(text, expected):
    assert build("selector", text, TABLE) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sampel", "did you mean 'sample'"),
        ("sample:probs=3", "did you mean 'probes'"),
        ("sample:probes=three", "probes = 'three'; expected a whole number"),
        ("sample:exact=yes", "expected true or false"),
        ("sample:precision=fp9", "expected one of fp8, int8"),
        ("sample:share=1,share=2", "sets share twice"),
        ("sample:share=1:Flat", "expected key=value, found 'Flat'"),
        ("needy", "needs path: write needy:path="),
        ("", "unknown selector ''"),
    ],
)
def test_wrong_settings_are_repeated_back(text, complaint):
    with pytest.raises(InputError, match=complaint):
        build("selector", text, TABLE)
