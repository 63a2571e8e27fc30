"""The rows of a score table that a gate is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from indexer_lab.errors import InputError, unknown_name
from indexer_lab.gates.gate import GROUPS, Scope
from indexer_lab.scoring import BASELINES
from indexer_lab.store.scores import Scores

CASE = ["selector", "target", "level", "budget"]
"""Never pooled: a number over two selectors, targets, levels or budgets says nothing."""
WHERE = ["layer", "head"]
ROW = ["sample", "layer", "head", "position"]
NEEDED = list(dict.fromkeys([*CASE, *GROUPS, *ROW, "length", "trivial"]))
SPARSE = ("recall_sink", "recall_local", "recall_far")
"""Measures that are NaN in rows where there is nothing to find; anywhere else a NaN is a fault."""


def load(scores: Scores, measures: Sequence[str]) -> pd.DataFrame:
    """The table of a finished run. Raises InputError when parts are missing: what is not there
    cannot pass."""
    wanted = int(scores.manifest.get("samples", 0)) * len(scores.manifest.get("layers", ()))
    have = len(list((scores.path / "parts").glob("*/layer-*.parquet")))
    if have < wanted:
        raise InputError(
            f"{scores.path} is unfinished: {have} of {wanted} parts are there; finish it with "
            "score --resume"
        )
    frame = scores.frame(list(dict.fromkeys([*NEEDED, *measures])))
    return frame.astype(dict.fromkeys(("sample", "task", "selector", "target", "level"), str))


def within(frame: pd.DataFrame, scope: Scope) -> pd.DataFrame:
    """The rows that a scope names, trivial ones too. Raises InputError for a value that the table
    does not hold, and when no selector is left."""
    rows = frame
    for column, values in (
        ("selector", scope.selectors),
        ("target", scope.targets),
        ("budget", scope.budgets),
        ("layer", scope.layers),
        ("task", scope.tasks),
    ):
        if values is not None:
            _known(column, values, frame)
            rows = rows[rows[column].isin(values)]
    if scope.selectors is None:
        rows = rows[~rows["selector"].isin(BASELINES)]
    if rows.empty:
        raise InputError(
            "a gate over nothing: no row is left "
            f"{'but those of the baselines' if scope.selectors is None else 'of what it names'}; "
            f"the table holds {_held(frame)}"
        )
    return rows


def cases(
    rows: pd.DataFrame, per: tuple[str, ...]
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Every selector, target, budget and group of `per`, with its rows."""
    keys = [*CASE, *per]
    for values, part in rows.groupby(keys, sort=True, observed=True):
        yield dict(zip(keys, values, strict=True)), part


def counted(case: dict[str, Any], part: pd.DataFrame) -> pd.DataFrame:
    """The rows that are not trivial. Raises InputError when all are."""
    rows = part[~part["trivial"]]
    if rows.empty:
        raise InputError(
            f"a gate over nothing: all {len(part):,} rows of {named(case)} are trivial (they see "
            "no more keys than the budget); leave that budget out with --budget, or score longer "
            "prompts"
        )
    return rows


def named(case: dict[str, Any]) -> str:
    """A case in words."""
    unit = "units" if case["level"] == "unit" else "keys"
    first = f"{case['selector']}, target {case['target']}, {case['budget']} {unit}"
    more = [f"{name} {case[name]}" for name in GROUPS if name in case]
    return ", ".join([first, *more])


def _known(column: str, values: tuple[Any, ...], frame: pd.DataFrame) -> None:
    held = set(frame[column])
    for value in values:
        if value not in held:
            names = sorted(held) if column in ("budget", "layer") else held
            raise unknown_name(column, str(value), [str(name) for name in names])


def _held(frame: pd.DataFrame) -> str:
    return "; ".join(
        f"{name}s {', '.join(str(each) for each in sorted(set(frame[name])))}" for name in CASE
    )
