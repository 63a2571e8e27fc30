"""A selector's spelling on the command line: `name:setting:key=value,key=value`.

`faiss:IVF256,PQ32:nprobe=16` gives the first field of the faiss selector the value
"IVF256,PQ32" and sets nprobe to 16; `lightning:precision=fp8` sets one field by name. A selector
whose first field is a path takes all that follows its name, colons, commas and equals signs
included: `recorded:runs/k=2048/layer.npy`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from indexer_lab.errors import InputError, unknown_name


def build(kind: str, text: str, table: Mapping[str, Callable[..., Any]]) -> Any:
    """The frozen dataclass that `text` spells, from a table of factories.

    Raises InputError for an unknown name or setting and for a value of the wrong type.
    """
    name, *parts = text.strip().split(":")
    if name not in table:
        raise unknown_name(kind, name, table)
    factory = table[name]
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, factory))}
    hints = typing.get_type_hints(factory)
    takes_path = bool(fields) and hints[next(iter(fields))] is Path
    read = _path if takes_path else _pairs
    settings: dict[str, Any] = {}
    for key, value in read(kind, text, parts, list(fields)):
        if key not in fields:
            raise unknown_name(f"setting of {kind} {name}", key, fields)
        if key in settings:
            raise InputError(f"{kind} {text!r} sets {key} twice")
        settings[key] = _convert(f"{kind} {text!r}: {key}", value, hints[key])
    missing = [
        f.name
        for f in fields.values()
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in settings
    ]
    if missing:
        raise InputError(f"{kind} {text!r} needs {missing[0]}: write {name}:{missing[0]}=…")
    try:
        return factory(**settings)
    except ValueError as error:
        raise InputError(f"{kind} {text!r}: {error}") from error


def _path(kind: str, text: str, parts: list[str], fields: list[str]) -> list[tuple[str, str]]:
    whole = ":".join(parts).removeprefix(f"{fields[0]}=")
    return [(fields[0], whole)] if whole else []


def _pairs(kind: str, text: str, parts: list[str], fields: list[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for place, part in enumerate(parts):
        if "=" in part:
            for pair in part.split(","):
                key, equals, value = pair.partition("=")
                if not equals:
                    raise InputError(f"{kind} {text!r}: expected key=value, found {pair!r}")
                pairs.append((key.strip(), value.strip()))
        elif place == 0 and fields and part:
            pairs.append((fields[0], part))
        else:
            raise InputError(f"{kind} {text!r}: expected key=value, found {part!r}")
    return pairs


def _convert(where: str, value: str, hint: Any) -> Any:
    options = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        if value in options:
            return value
        raise InputError(f"{where} = {value!r}; expected one of {', '.join(map(str, options))}")
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if type(None) in options and value.lower() == "none":
            return None
        hint = next(option for option in options if option is not type(None))
        return _convert(where, value, hint)
    if hint is bool:
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise InputError(f"{where} = {value!r}; expected true or false")
    try:
        return hint(value)
    except ValueError:
        names = {int: "a whole number", float: "a number"}
        raise InputError(f"{where} = {value!r}; expected {names.get(hint, hint)}") from None
