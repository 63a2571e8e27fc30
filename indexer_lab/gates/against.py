"""A score table held against a reference run, layer by layer, on the rows that both hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from indexer_lab.errors import InputError, unknown_name
from indexer_lab.gates.gate import AGGREGATES, Bound, Scope
from indexer_lab.gates.judging import Ruling, numbers, shortfall, worst_place
from indexer_lab.gates.rows import CASE, ROW, SPARSE, cases, counted, named, within
from indexer_lab.summary import LOWER_IS_BETTER

DIRECTED = {
    "recall": "min", "jaccard": "min", "mass": "min", "mass_ratio": "min", "top1": "min",
    "rank_correlation": "min", "ndcg": "min", "recall_sink": "min", "recall_local": "min",
    "recall_far": "min", "duplicates": "max", "future": "max", "out_of_range": "max",
    "missing": "max", **dict.fromkeys(LOWER_IS_BETTER, "max"),
}  # fmt: skip
"""Which way a measure is worse: under its limit (min) or over it (max). A measure that is not here
says nothing of a selector."""


@dataclass(frozen=True)
class Tolerance:
    """How much worse an aggregate of a measure may be than the reference's, in its unit."""

    measure: str
    aggregate: str
    value: float

    def __post_init__(self) -> None:
        if self.measure not in DIRECTED:
            raise unknown_name("measure with a better and a worse", self.measure, DIRECTED)
        if self.aggregate not in AGGREGATES:
            raise unknown_name("aggregate", self.aggregate, AGGREGATES)
        if self.value < 0:
            raise InputError(f"--tolerance {self.value:g}: expected 0 or more")

    @property
    def bound(self) -> Bound:
        return "min" if DIRECTED[self.measure] == "min" else "max"


def compare(
    frame: pd.DataFrame,
    reference: pd.DataFrame,
    tolerances: list[Tolerance],
    scope: Scope,
    selector: str | None,
) -> Iterator[Ruling]:
    """A ruling for every selector, target, budget, layer and tolerance.

    selector: the reference's, for every selector of `frame`; None: the one of the same name.
    Raises InputError when a case or a layer of the reference has no row in both tables, and when
    the two are of other prompts.
    """
    rows = within(frame, scope)
    for case, part in cases(rows, ()):
        theirs = _reference(reference, case, selector, scope)
        _same_prompts(part, theirs)
        absent = sorted(set(theirs["layer"]) - set(part["layer"]))
        if absent and scope.layers is None:
            raise InputError(
                f"{named(case)}: layer {absent[0]} of the reference is not in these scores; what "
                "is not there cannot pass; leave it out with --layers"
            )
        both = part.merge(theirs, on=ROW, suffixes=("", " reference"))
        for layer in sorted(set(part["layer"]) & set(theirs["layer"])):
            ours = both[both["layer"] == layer]
            if ours.empty:
                raise InputError(
                    f"{named(case)}: no row of layer {layer} is in both runs; capture the same "
                    "--positions for both"
                )
            at = {**case, "layer": int(layer)}
            paired = counted(at, ours)
            for tolerance in tolerances:
                yield _ruling(at, ours, paired, tolerance)


def _reference(
    reference: pd.DataFrame, case: dict[str, Any], selector: str | None, scope: Scope
) -> pd.DataFrame:
    wanted = {**case, "selector": selector or case["selector"]}
    rows = reference
    for column in CASE:
        held = sorted(set(rows[column]))
        if wanted[column] not in held:
            more = " (name another with --against-selector)" if column == "selector" else ""
            raise InputError(
                f"the reference holds no {column} {wanted[column]!r}{more}; it holds "
                f"{', '.join(map(str, held))}"
            )
        rows = rows[rows[column] == wanted[column]]
    if scope.layers is not None:
        rows = rows[rows["layer"].isin(scope.layers)]
    return rows.drop(columns=[*CASE, "trivial", "task"])


def _same_prompts(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    lengths = [rows.groupby("sample")["length"].first() for rows in (ours, theirs)]
    shared = lengths[0].index.intersection(lengths[1].index)
    if shared.empty:
        raise InputError(
            f"the two runs share no prompt: sample {lengths[0].index[0]!r} is not in the "
            "reference; score captures of the same prompts"
        )
    for sample in shared:
        here, there = int(lengths[0][sample]), int(lengths[1][sample])
        if here != there:
            raise InputError(
                f"sample {sample!r} has {here} tokens here and {there} in the reference: these "
                "are not the same prompts"
            )
    if len(alone := lengths[1].index.difference(shared)):
        raise InputError(
            f"sample {alone[0]!r} of the reference is not in these scores: what is not there "
            "cannot pass"
        )


def _ruling(
    case: dict[str, Any], ours: pd.DataFrame, paired: pd.DataFrame, tolerance: Tolerance
) -> Ruling:
    measure, aggregate = tolerance.measure, AGGREGATES[tolerance.aggregate]
    value = aggregate(numbers(measure, case, paired))
    other = paired[f"{measure} reference"].astype("float64").dropna()
    if other.empty:
        raise InputError(f"{measure} of the reference holds no number for {named(case)}")
    sign = -1 if tolerance.bound == "min" else 1
    limit = aggregate(other) + sign * tolerance.value
    short = shortfall(value, limit, tolerance.bound)
    missing = 0 if measure in SPARSE else int(paired[measure].isna().sum())
    passed = short == 0 and not missing
    asked = f"{measure} {tolerance.aggregate}, {aggregate(other):.4g} in the reference"
    asked += f", {tolerance.value:g} allowed"
    worst = None if passed else worst_place(paired, measure, tolerance.aggregate, tolerance.bound)
    return Ruling(
        asked, case, value, limit, len(paired), float(ours["trivial"].mean()), missing,
        tolerance.bound, short, passed, worst,
    )  # fmt: skip
