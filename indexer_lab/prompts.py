"""Prompts from a JSONL file: `id`, `text` or `input_ids`, optional `task` and `answer`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexer_lab.errors import InputError


@dataclass(frozen=True)
class Prompt:
    """One prompt, as text to tokenize or as token ids to use as they are.

    needles:   character spans of `text` (first, one past the last) that hold what the answer needs.
    predicted: a quality run predicts this many of the text's last tokens, at most half of them.
    """

    id: str
    text: str | None = None
    input_ids: list[int] | None = None
    task: str = ""
    answer: str = ""
    needles: list[tuple[int, int]] = field(default_factory=list)
    predicted: int = 0


def read(path: Path, limit: int | None = None) -> list[Prompt]:
    """The prompts of a JSONL file, blank lines left out, at most `limit` of them.

    Raises InputError with the line number for a line that is no prompt or repeats an id, and for a
    file that is missing, empty or no text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"no prompts at {path}: that file does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text ({error})") from None
    prompts: list[Prompt] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        prompt = _prompt(f"{path}, line {number}", line)
        if prompt.id in seen:
            raise InputError(
                f"{path}, line {number}: id {prompt.id!r} is already used on line {seen[prompt.id]}"
                "; ids must differ"
            )
        seen[prompt.id] = number
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"{path} holds no prompt; expected one JSON object a line")
    return prompts[:limit]


def _prompt(where: str, line: str) -> Prompt:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: broken JSON ({error})") from None
    if not isinstance(fields, dict):
        raise InputError(
            f'{where}: expected an object like {{"id": "a", "text": "…"}}, found {line[:40]!r}'
        )
    identifier = fields.get("id")
    if not isinstance(identifier, str | int) or isinstance(identifier, bool) or identifier == "":
        raise InputError(f"{where}: 'id' is {identifier!r}; expected a non-empty string")
    return Prompt(
        id=str(identifier),
        text=_text(where, fields),
        input_ids=_ids(where, fields),
        task=str(fields.get("task") or ""),
        answer=str(fields.get("answer") or ""),
    )


def _text(where: str, fields: dict[str, Any]) -> str | None:
    text = fields.get("text")
    if (text is None) == (fields.get("input_ids") is None):
        raise InputError(f"{where}: give either 'text' or 'input_ids', one of the two")
    if text is not None and (not isinstance(text, str) or not text):
        raise InputError(f"{where}: 'text' is {text!r}; expected a non-empty string")
    return text


def _ids(where: str, fields: dict[str, Any]) -> list[int] | None:
    ids = fields.get("input_ids")
    if ids is None:
        return None
    if not isinstance(ids, list) or not ids or not all(type(i) is int and i >= 0 for i in ids):
        raise InputError(
            f"{where}: 'input_ids' must be a non-empty list of whole numbers from 0 up"
        )
    return ids
