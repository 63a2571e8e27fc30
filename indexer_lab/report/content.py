"""What a report is made of, before it is HTML: plain text and numbers, nothing marked up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

MOST_ROWS = 2000
"""A table in a report is for the eye; the folder holds all of it."""


@dataclass(frozen=True)
class Cell:
    """A table's cell: what stands there, and what it is sorted by ("" sorts last)."""

    text: str
    key: str
    numeric: bool


@dataclass(frozen=True)
class Table:
    """A table with a caption; `note` says what was left out."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether it holds nothing but numbers."""
        return [bool(column) and all(c.numeric for c in column) for column in self._columns()]

    def _columns(self) -> list[tuple[Cell, ...]]:
        return list(zip(*self.rows, strict=True)) or [() for _ in self.columns]


@dataclass(frozen=True)
class Verdict:
    """One finding. state: supported, not supported, undecided here, or measured, where a number
    answers no yes-or-no question. numbers: those behind it. caveats: what it cannot tell."""

    state: str
    sentence: str
    claim: str = ""
    numbers: Table | None = None
    caveats: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure: its PNG as a data URI, pixels wide and high, and the numbers it plots."""

    name: str
    title: str
    question: str
    reading: str
    alt: str
    uri: str
    width: int
    height: int
    table: Table | None
    source: str
    origin: dict[str, Any]

    @property
    def command(self) -> str:
        """What drew it; "" where its record does not say."""
        return str(self.origin.get("command") or "")

    @property
    def inches(self) -> float:
        """Its width on paper: figures are drawn with 200 dots an inch."""
        return self.width / 200


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], note: str = ""
) -> Table:
    """A table of plain values; MOST_ROWS of them at most, and its note says so."""
    every = list(rows)
    if len(every) > MOST_ROWS:
        more = f"The first {MOST_ROWS:,} of {len(every):,} rows."
        note = f"{note} {more}".strip()
    cells = tuple(tuple(cell(value) for value in row) for row in every[:MOST_ROWS])
    return Table(caption, tuple(columns), cells, note)


def framed(caption: str, frame: pd.DataFrame, note: str = "") -> Table:
    """A data frame as a table, its columns named as they are."""
    names = [str(name).replace("_", " ") for name in frame.columns]
    return table(caption, names, frame.itertuples(index=False, name=None), note)


def cell(value: object) -> Cell:
    """A cell of any value: numbers in three decimals, missing ones as a dash."""
    if isinstance(value, Cell):
        return value
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return Cell("–", "", True)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", "1" if value else "0", False)
    if isinstance(value, int):
        return Cell(f"{value:,}", str(value), True)
    if isinstance(value, float):
        key = repr(value) if math.isfinite(value) else number(value).replace("∞", "Infinity")
        return Cell(number(value), key.replace("−", "-"), True)
    return Cell(str(value), str(value), False)


def number(value: float) -> str:
    """Three decimals; what would round to nothing in scientific notation.

    >>> number(0.25), number(1e-6), number(float("inf")), number(1234.5)
    ('0.250', '1.00e-06', '∞', '1,234.5')
    """
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if 0 < abs(value) < 5e-4:
        return f"{value:.2e}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.3f}"


def percent(share: float) -> str:
    """A share in per cent, one decimal; "unknown" for none."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else "unknown"


def share(value: float) -> Cell:
    """A share as a cell in per cent."""
    return Cell(percent(value), repr(float(value)), True)


def plural(count: int, noun: str) -> str:
    """A whole number and its noun.

    >>> plural(1, "prompt"), plural(4096, "row")
    ('1 prompt', '4,096 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
