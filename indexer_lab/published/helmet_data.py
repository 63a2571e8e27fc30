"""HELMET's JSONL files: the rows that are asked, their demonstrations, and the text of each.

Which rows, which demonstrations: as HELMET's data.py draws them (max_test_samples 100, shots 2,
seed 42), so that a run here asks what any HELMET run asks.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from indexer_lab.errors import InputError
from indexer_lab.published.helmet_tasks import LENGTHS, HelmetTask

SAMPLES, SHOTS, SEED = 100, 2, 42
WHERE = "https://huggingface.co/datasets/princeton-nlp/HELMET (data.tar.gz, 11 GB)"

Row = dict[str, Any]


@dataclass(frozen=True)
class HelmetSample:
    """One row, ready to be put into words. line: its number in the file, from 1.

    fields: what the task's words leave open, `context` among them.
    """

    line: int
    fields: Row
    answers: list[str]


def read(data: Path, name: str, task: HelmetTask, length: int) -> list[HelmetSample]:
    """The samples that HELMET asks at a length, in its order.

    Raises InputError for a length that is not published, a missing folder or file, and a row that
    is not HELMET's.
    """
    if length not in LENGTHS:
        known = ", ".join(str(each) for each in LENGTHS)
        raise InputError(
            f"--length {length}: HELMET is published at {known} tokens; give one of these"
        )
    root = _root(data)
    path = root / task.path(length)
    rows = _rows(path, name)
    try:
        return _READERS[task.kind](rows, task, root, name)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} is not in HELMET's format for {name} ({type(error).__name__}: {error}); get "
            f"the published file from {WHERE}"
        ) from error


def _root(data: Path) -> Path:
    """The folder that holds ruler/, json_kv/ and kilt/: the one given, or `data` in it."""
    if not data.is_dir():
        raise InputError(
            f"--data {data}: no such folder; expected HELMET's data folder, unpacked from {WHERE}"
        )
    return data / "data" if (data / "data").is_dir() else data


def _rows(path: Path, name: str) -> list[Row]:
    """The objects of a JSONL file, `line` added to each."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would cut at U+2028
    except FileNotFoundError:
        raise InputError(
            f"HELMET's {name} is not in the data folder: {path} does not exist; --data must name "
            f"the folder unpacked from {WHERE}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text ({error})") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append({**json.loads(line), "line": number})
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number}: expected a JSON object ({error})"
                ) from None
    if not rows:
        raise InputError(f"{path} holds no samples; get the published file from {WHERE}")
    return rows


def _ruler(rows: list[Row], task: HelmetTask, root: Path, name: str) -> list[HelmetSample]:
    found = []
    for row in _shuffled(rows, SEED)[:SAMPLES]:
        example = row.get("example") or ""
        question = row.get("query", row.get("question", ""))
        fields = {**row, "question": question, "example": example and example + "\n\n"}
        found.append(_sample(task, fields, row["answer"] if "answer" in row else row["outputs"]))
    return found


def _json_kv(rows: list[Row], task: HelmetTask, root: Path, name: str) -> list[HelmetSample]:
    found = []
    for row in _shuffled(rows, SEED)[:SAMPLES]:
        pairs = row["demos"][:SHOTS]
        shown = [f"Key: {key}\nCorresponding value: {value}\n\n" for key, value in pairs]
        found.append(_sample(task, {**row, "demos": "".join(shown)}, row["answer"]))
    return found


def _kilt(rows: list[Row], task: HelmetTask, root: Path, name: str) -> list[HelmetSample]:
    """All depths of a draw of questions, each behind the questions and documents of two others."""
    pool = _rows(root / task.demos, name)
    if task.popularity is not None:
        rows, pool = (
            [row for row in each if math.log10(row["s_pop"]) < task.popularity]
            for each in (rows, pool)
        )
    key = "id" if "id" in rows[0] else "question"
    questions = sorted({row[key] for row in rows})
    drawn = set(Random(SEED).sample(questions, min(SAMPLES, len(questions))))
    found = []
    for row in rows:
        if row[key] in drawn:
            others = pool
            if task.popularity is not None:  # PopQA has one split: its demonstrations are its test
                others = [each for each in pool if each[key] != row[key]]
            fields = {**row, "demos": _demonstrations(others, key, row[key])}
            fields["context"] = _documents(row)
            found.append(_sample(task, fields, row["answers"]))
    return found


def _demonstrations(pool: list[Row], key: str, asked: Any) -> str:
    """Two answered questions, the same for the same question."""
    seed = int(hashlib.sha256(str(asked).encode("utf-8")).hexdigest(), 16) % 2**31
    different: dict[Any, Row] = {}
    for row in _shuffled(pool, seed):
        different.setdefault(row[key], row)
    shown = list(different.values())[:SHOTS]
    if len(shown) < SHOTS:
        raise ValueError(f"{len(shown)} different demonstrations, expected {SHOTS}")
    return "".join(
        f"{_documents(row)}\n\nQuestion: {row['question']}\nAnswer: {row['answers'][0]}\n\n"
        for row in shown
    )


def _documents(row: Row) -> str:
    return "\n\n".join(f"Document (Title: {each['title']}): {each['text']}" for each in row["ctxs"])


def _shuffled(rows: list[Row], seed: int) -> list[Row]:
    """In the order of `datasets.Dataset.shuffle(seed)`."""
    return [rows[place] for place in np.random.default_rng(seed).permutation(len(rows))]


def _sample(task: HelmetTask, fields: Row, answer: Any) -> HelmetSample:
    answers = _flat(answer)
    if not answers:
        raise ValueError(f"line {fields['line']} has no answer")
    task.user.format(**fields), task.answer.format(**fields)  # a field that is missing shows here
    if not isinstance(fields["context"], str):
        raise TypeError(f"line {fields['line']} has a context that is no text")
    return HelmetSample(fields["line"], fields, answers)


def _flat(answer: Any) -> list[str]:
    """A text, a list of texts or a list of lists of them, as a list."""
    if isinstance(answer, str):
        return [answer]
    return [text for each in answer for text in _flat(each)]


_READERS: dict[str, Callable[[list[Row], HelmetTask, Path, str], list[HelmetSample]]] = {
    "ruler": _ruler,
    "json_kv": _json_kv,
    "kilt": _kilt,
}
