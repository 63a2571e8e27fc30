"""Score tables before their gates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from indexer_lab.errors import InputError
from indexer_lab.gates.gate import AGGREGATES, Bound, Gate
from indexer_lab.gates.rows import SPARSE, WHERE, cases, counted, named, within

ROUNDING = 2.0**-22
"""Measures are float32: a share of 9/10 is stored a little under 0.9. A difference that this
explains is none."""


@dataclass(frozen=True)
class Worst:
    """The layer and head with the worst value of the same aggregate."""

    layer: int
    head: int
    value: float


@dataclass(frozen=True)
class Ruling:
    """A gate's answer for one case.

    asked:   the gate in words. limit: what `value` had to keep to.
    rows:    that count; trivial: share of the case's rows that were left out; missing: rows without
             a number, which no gate lets pass.
    short:   by how much the limit was missed, in the measure's unit; 0 when it was kept.
    """

    asked: str
    case: dict[str, Any]
    value: float
    limit: float
    rows: int
    trivial: float
    missing: int
    bound: Bound
    short: float
    passed: bool
    worst: Worst | None

    @property
    def sentence(self) -> str:
        """What was asked of which rows, what was found, and where and by how much it fails."""
        rows = f"{self.rows:,} rows, {100 * self.trivial:.1f} % trivial left out"
        text = f"{self.asked}: {named(self.case)}: {self.value:.4g} ({rows})"
        if self.passed:
            return text
        side = "under" if self.bound == "min" else "over"
        why = (
            f"{self.missing:,} rows hold no number" if self.missing else f"{self.short:.3g} {side}"
        )
        if self.worst is None:
            return f"{text}: {why}"
        place = f"layer {self.worst.layer}, head {self.worst.head}: {self.worst.value:.4g}"
        return f"{text}: {why}; worst in {place}"

    def __str__(self) -> str:
        return f"{'ok    ' if self.passed else 'FAILED'}  {self.sentence}"


def judge(frame: pd.DataFrame, gate: Gate) -> Iterator[Ruling]:
    """The gate's ruling on every selector, target, budget and group of its scope.

    Raises InputError for a gate over nothing: no rows, all trivial, or a measure without a number.
    """
    for case, part in cases(within(frame, gate.scope), gate.scope.per):
        rows = counted(case, part)
        values = numbers(gate.measure, case, rows)
        value = AGGREGATES[gate.aggregate](values)
        missing = 0 if gate.measure in SPARSE else int(rows[gate.measure].isna().sum())
        short = shortfall(value, gate.value, gate.bound)
        passed = short == 0 and not missing
        worst = None if passed else worst_place(rows, gate.measure, gate.aggregate, gate.bound)
        yield Ruling(
            str(gate), case, value, gate.value, len(rows), float(part["trivial"].mean()), missing,
            gate.bound, short, passed, worst,
        )  # fmt: skip


def numbers(measure: str, case: dict[str, Any], rows: pd.DataFrame) -> pd.Series:
    """The measure's values, those that are there. Raises InputError when none is."""
    values = rows[measure].astype("float64").dropna()
    if values.empty:
        raise InputError(
            f"a gate over nothing: {measure} holds no number in the {len(rows):,} rows of "
            f"{named(case)}"
        )
    return values


def shortfall(value: float, limit: float, bound: Bound) -> float:
    """By how much a value misses its limit; 0 when it keeps to it, or rounding explains it."""
    short = limit - value if bound == "min" else value - limit
    return short if short > ROUNDING * max(1.0, abs(limit)) else 0.0


def worst_place(rows: pd.DataFrame, measure: str, aggregate: str, bound: Bound) -> Worst | None:
    """Where the aggregate is worst; the first place without a number comes before all others."""
    groups = rows.assign(**{measure: rows[measure].astype("float64")}).groupby(WHERE)[measure]
    if measure not in SPARSE and (holes := groups.apply(lambda part: part.isna().any())).any():
        layer, head = holes.idxmax()
        return Worst(int(layer), int(head), float("nan"))
    values = groups.agg(AGGREGATES[aggregate]).dropna()
    if values.empty:
        return None
    layer, head = values.idxmin() if bound == "min" else values.idxmax()
    return Worst(int(layer), int(head), float(values[layer, head]))
