"""A gate, and how it is spelled: `recall=0.9`, `recall.p1=0.5`, or an entry of a YAML file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from indexer_lab.errors import InputError, unknown_name
from indexer_lab.measures import FACTS, MEASURES
from indexer_lab.store.files import read_yaml

AGGREGATES: dict[str, Callable[[pd.Series], float]] = {
    "mean": lambda values: float(values.mean()),
    "median": lambda values: float(values.median()),
    "min": lambda values: float(values.min()),
    "p1": lambda values: float(values.quantile(0.01)),
    "p10": lambda values: float(values.quantile(0.1)),
    "p90": lambda values: float(values.quantile(0.9)),
    "p99": lambda values: float(values.quantile(0.99)),
    "max": lambda values: float(values.max()),
}
"""What is made of a measure's rows. p1: one row in a hundred lies below."""
GROUPS = ("layer", "head", "task", "sample")
Bound = Literal["min", "max"]


@dataclass(frozen=True)
class Scope:
    """The rows that a gate is about; None where all count.

    selectors: baselines are left out unless they are named.
    per:       asked of each layer, head, task or sample alone.
    """

    selectors: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    budgets: tuple[int, ...] | None = None
    layers: tuple[int, ...] | None = None
    tasks: tuple[str, ...] | None = None
    per: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.per:
            if name not in GROUPS:
                raise unknown_name("group", name, GROUPS)


@dataclass(frozen=True)
class Gate:
    """One threshold: `aggregate` of `measure` over the rows of `scope` must keep to `value`."""

    measure: str
    aggregate: str
    bound: Bound
    value: float
    scope: Scope = Scope()

    def __post_init__(self) -> None:
        if self.measure not in MEASURES and self.measure not in FACTS:
            raise unknown_name("measure", self.measure, [*MEASURES, *FACTS])
        if self.aggregate not in AGGREGATES:
            raise unknown_name("aggregate", self.aggregate, AGGREGATES)

    def __str__(self) -> str:
        sign = "≥" if self.bound == "min" else "≤"
        return f"{self.measure} {self.aggregate} {sign} {self.value:g}"


def spelled(option: str, text: str, scope: Scope) -> Gate:
    """The gate that `--min recall.p1=0.5` spells. Raises InputError naming the wrong piece."""
    measure, aggregate, value = threshold(option, text)
    bound: Bound = "min" if option == "--min" else "max"
    return Gate(measure, aggregate, bound, value, scope)


def threshold(option: str, text: str) -> tuple[str, str, float]:
    """`recall.p1=0.5` as measure, aggregate (mean where none is named) and number."""
    name, equals, number = text.partition("=")
    if not equals:
        raise InputError(f"{option} {text!r}: expected MEASURE=NUMBER or MEASURE.AGGREGATE=NUMBER")
    measure, _, aggregate = name.strip().partition(".")
    return measure, aggregate or "mean", finite(f"{option} {text!r}", number)


def finite(where: str, text: object) -> float:
    """A finite number. Raises InputError."""
    try:
        value = float(text) if isinstance(text, str | int | float) else math.nan
    except ValueError:
        value = math.nan
    if isinstance(text, bool) or not math.isfinite(value):
        raise InputError(f"{where}: {text!r} is no finite number")
    return value


def read(path: Path, default: Scope) -> list[Gate]:
    """The gates of a YAML file: a list, or a mapping with the list under `gates`. What an entry
    does not say about its rows, `default` says. Raises InputError naming file and entry."""
    content = read_yaml(path, "gates")
    entries = content.get("gates") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise InputError(
            f"{path} holds no gates; expected a list like `- {{measure: recall, min: 0.9}}`"
        )
    return [
        _entry(f"{path}, gate {number}", entry, default) for number, entry in enumerate(entries, 1)
    ]


PLURAL = {
    "selector": "selectors",
    "target": "targets",
    "budget": "budgets",
    "layer": "layers",
    "task": "tasks",
    "per": "per",
}
"""An entry's word -> the field of Scope that it fills; the plural is understood too."""


def _entry(where: str, entry: object, default: Scope) -> Gate:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where}: expected fields like `measure: recall`, found {entry!r}")
    names = {*PLURAL, *PLURAL.values(), "measure", "aggregate", "min", "max"}
    for name in entry:
        if name not in names:
            raise InputError(f"{where}: {unknown_name('field', str(name), names)}")
    bounds = [name for name in ("min", "max") if name in entry]
    if "measure" not in entry or len(bounds) != 1:
        raise InputError(f"{where}: expected `measure` and one of `min` and `max`")
    bound: Bound = "min" if bounds == ["min"] else "max"
    try:
        return Gate(
            str(entry["measure"]),
            str(entry.get("aggregate", "mean")),
            bound,
            finite(bound, entry[bound]),
            replace(default, **_scope(entry)),
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _scope(entry: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    given: dict[str, tuple[Any, ...]] = {}
    whole = {field.name for field in fields(Scope)} & {"budgets", "layers"}
    for word, name in PLURAL.items():
        value = entry.get(word, entry.get(name))
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        kind = int if name in whole else str
        if not values or not all(type(each) is kind for each in values):
            what = "whole numbers" if kind is int else "names"
            raise InputError(f"{word} {value!r}: expected {what}")
        given[name] = tuple(values)
    return given
