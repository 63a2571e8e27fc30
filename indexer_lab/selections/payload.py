"""What engines hand out, as arrays with what they say of themselves.

SGLang (`--enable-return-indexer-topk`, `return_indexer_topk` in the request): `meta_info` holds
`indexer_topk`, base64 of flat little-endian int32 [tokens - 1, layer, k], and
`indexer_topk_num_layers`. vLLM (its pull request 49555): each choice holds `indexer_topk`, base64
of a .npy int32 [tokens, layer, k], without the first `indexer_topk_prompt_start` tokens. In both,
a row is the query at that position, numbers are positions of the request, -1 is an empty place.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexer_lab.errors import InputError
from indexer_lab.selections.arrays import MAGIC, Integers, of_file, of_npy

ARRAYS = (".npy", ".npz", ".safetensors")
TEXTS = (".json", ".jsonl")


@dataclass(frozen=True)
class Payload:
    """The selections of one request.

    where:     for messages: file, and which part of it.
    picked:    int64 [token, layer, k].
    sample:    the id of the sample that it names, "" for none.
    hint:      an array's name in its file, which may be a sample's id.
    prompt, completion: tokens of the request, None where it does not say.
    token_ids: of the prompt, None where they are not there.
    """

    where: str
    picked: Integers
    sample: str = ""
    prompt: int | None = None
    completion: int | None = None
    token_ids: list[int] | None = None
    hint: str = ""


def read(path: Path, layers: int | None = None) -> list[Payload]:
    """The selections that a file holds.

    layers: of a flat SGLang payload whose response does not say how many. Raises InputError.
    """
    if not path.is_file():
        raise InputError(f"no selection at {path}: there is no such file")
    if path.suffix in ARRAYS:
        return [
            Payload(_place(path, name), _cube(_place(path, name), array), hint=name)
            for name, array in of_file(path).items()
        ]
    if path.suffix not in TEXTS:
        raise InputError(
            f"{path}: expected {', '.join((*TEXTS, *ARRAYS))}, not {path.suffix or 'no ending'!r}"
        )
    found = [
        payload
        for where, response in _responses(path)
        for payload in _of_response(where, response, layers)
    ]
    if not found:
        raise InputError(
            f"{path} holds no indexer_topk: start the engine with --enable-return-indexer-topk, "
            "and ask SGLang for it with return_indexer_topk"
        )
    return found


def _place(path: Path, name: str) -> str:
    return f"{path}, {name}" if name else str(path)


def _responses(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every response of a JSON file, a list of them, or JSON lines."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            content = json.loads(text)
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({' '.join(str(error).split())})"
        ) from None
    many = isinstance(content, list)
    for number, response in enumerate(content if many else [content], 1):
        where = f"{path}, response {number}" if many else str(path)
        if not isinstance(response, dict):
            raise InputError(
                f"{where}: expected an engine's response, found {str(response)[:40]!r}"
            )
        yield where, response


def _of_response(where: str, response: dict[str, Any], layers: int | None) -> Iterator[Payload]:
    """A response, or one under `response` beside the id of its `sample`."""
    inner = response.get("response", response)
    if not isinstance(inner, dict):
        raise InputError(f"{where}: `response` is {str(inner)[:40]!r}; expected an object")
    sample = str(response.get("sample", ""))
    choices = inner.get("choices")
    parts = (
        [part for part in choices if isinstance(part, dict)] if isinstance(choices, list) else []
    )
    held = [part for part in (inner, *parts) if _encoded(part) is not None]
    if len(held) > 1:
        raise InputError(
            f"{where} holds {len(held)} selections of one prompt; ask the engine for n=1"
        )
    for part in held:
        meta = _dict(part, "meta_info")
        usage = {**_dict(inner, "usage"), **meta}
        picked = _decoded(where, _encoded(part), meta, usage, layers)
        yield Payload(
            where,
            picked,
            sample,
            _count(where, usage, "prompt_tokens"),
            _count(where, usage, "completion_tokens"),
            _ids(where, {**response, **inner, **part}),
        )


def _encoded(part: dict[str, Any]) -> object:
    return _dict(part, "meta_info").get("indexer_topk", part.get("indexer_topk"))


def _dict(part: dict[str, Any], name: str) -> dict[str, Any]:
    found = part.get(name)
    return found if isinstance(found, dict) else {}


def _decoded(
    where: str, text: object, meta: dict[str, Any], usage: dict[str, Any], layers: int | None
) -> Integers:
    if not isinstance(text, str):
        raise InputError(f"{where}: indexer_topk is {type(text).__name__}; expected base64 text")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where}: indexer_topk is no base64 ({error})") from None
    if data.startswith(MAGIC):
        return _cube(where, of_npy(f"{where}: indexer_topk", data))
    count = _count(where, meta, "indexer_topk_num_layers")
    return _flat(where, data, layers if count is None else count, usage)


def _flat(where: str, data: bytes, layers: int | None, usage: dict[str, Any]) -> Integers:
    """Flat int32, whose shape the response's counts give."""
    if layers is None:
        raise InputError(
            f"{where} does not say its indexer_topk_num_layers; give it with --indexer-layers"
        )
    prompt = _count(where, usage, "prompt_tokens")
    completion = _count(where, usage, "completion_tokens")
    if prompt is None or completion is None:
        raise InputError(
            f"{where}: a flat indexer_topk has no shape of its own, and this response counts no "
            "prompt_tokens and completion_tokens"
        )
    rows = prompt + completion - 1
    if rows < 1 or layers < 1 or not data or len(data) % (4 * rows * layers):
        raise InputError(
            f"{where}: {len(data):,} bytes are no int32 [{rows} tokens, {layers} layers, k]"
        )
    return np.frombuffer(data, dtype="<i4").reshape(rows, layers, -1).astype(np.int64)


def _cube(where: str, array: Integers) -> Integers:
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(f"{where}: shape {array.shape}; expected [token, layer, k] or [token, k]")
    return array


def _count(where: str, fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise InputError(f"{where}: {name} is {str(value)[:40]!r}; expected a whole number")
    return value


def _ids(where: str, fields: dict[str, Any]) -> list[int] | None:
    value = fields.get("prompt_token_ids", fields.get("input_ids"))
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        raise InputError(f"{where}: the prompt's token ids are no list of whole numbers")
    return value
