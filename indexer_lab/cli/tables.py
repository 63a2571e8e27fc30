"""Results as tables on the terminal; plain text when the output is no terminal."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from indexer_lab.validating import Proof


def _show(table: Table) -> None:
    console = Console()
    width = None if console.is_terminal else 200
    Console(width=width, highlight=False).print(table)


def _cells(*values: Any) -> list[str]:
    return [value if isinstance(value, str) else _number(value) for value in values]


def _number(value: Any) -> str:
    if value is None or pd.isna(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"


def print_proofs(proofs: list[Proof]) -> None:
    """The worst difference per layer, over all samples."""
    table = Table(title="worst difference per layer")
    names = (
        "layer",
        "weights",
        "allowed",
        "indexer",
        "swapped keys",
        "score gap",
        "allowed",
        "holds",
    )
    for name in names:
        table.add_column(name, justify="right")
    for layer in sorted({proof.layer for proof in proofs}):
        here = [proof for proof in proofs if proof.layer == layer]
        table.add_row(
            *_cells(
                layer,
                *_worst(here, "weights_error", "weights_allowed"),
                here[0].indexer,
                sum(proof.swapped or 0 for proof in here),
                *_worst(here, "score_gap", "score_allowed"),
            ),
            "yes" if all(proof.holds for proof in here) else "NO",
        )
    _show(table)


def _worst(proofs: list[Proof], found: str, allowed: str) -> tuple[float | None, float | None]:
    """The difference that comes closest to its limit, and that limit."""
    pairs = [(getattr(proof, found), getattr(proof, allowed)) for proof in proofs]
    known = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
    return max(known, key=lambda pair: pair[0] / pair[1]) if known else (None, None)


def print_summary(summary: pd.DataFrame, measures: list[str]) -> None:
    """One line per target, level, budget and selector."""
    of_units = (summary["level"] == "unit").any()
    keys = ["target", "level", "budget"]
    for (target, level, budget), part in summary.groupby(keys, observed=True):
        share = part["trivial"].iloc[0]
        unit = f" {level}s" if of_units else ""
        table = Table(
            title=f"target {target}, budget {budget}{unit}: {part['rows'].iloc[0]:,} rows, "
            f"{share:.1%} trivial rows left out",
            title_justify="left",
        )
        table.add_column("selector", overflow="fold")
        table.add_column("sets", justify="right")
        stats = ("mean", "median", "p10", "p1", "worst")
        for measure in measures:
            for stat in stats:
                table.add_column(f"{measure.replace('_', ' ')}\n{stat}", justify="right")
        for row in part.to_dict("records"):
            cells = [row[f"{measure}_{stat}"] for measure in measures for stat in stats]
            table.add_row(row["selector"], str(row["sets"]), *_cells(*cells))
        _show(table)


def print_frame(title: str, frame: pd.DataFrame) -> None:
    """A data frame as it is, one line a row."""
    table = Table(title=title, title_justify="left")
    for name in frame:
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(str(name), justify="right" if numeric else "left", overflow="fold")
    for row in frame.to_dict("records"):
        table.add_row(*_cells(*row.values()))
    _show(table)


def print_quality(summary: pd.DataFrame) -> None:
    """One table per mode, one line per budget, layer and selector; empty columns are left out."""
    from indexer_lab.quality.summary import SHOWN

    for mode, part in summary.groupby("mode", sort=False):
        table = Table(title=f"{mode}, {part['samples'].iloc[0]:,} samples", title_justify="left")
        for name in ("budget", "layer", "selector"):
            table.add_column(name, overflow="fold")
        filled = [name for name in SHOWN[str(mode)] if part[f"{name}_mean"].notna().any()]
        stats = [(name, stat) for name in filled for stat in ("mean", "median", "worst")]
        for name, stat in stats:
            table.add_column(f"{name.replace('_', ' ')}\n{stat}", justify="right")
        timed = part["tokens_per_second"].notna().any()
        for name in ("tokens/s", "of dense") if timed else ():
            table.add_column(name, justify="right")
        for row in part.to_dict("records"):
            budget = str(row["budget"] or "–")
            layer = "all" if row["layer"] < 0 else str(row["layer"])
            cells = _cells(*(row[f"{name}_{stat}"] for name, stat in stats))
            speed = [f"{row['tokens_per_second']:,.1f}", f"{row['speed_ratio']:.2f}"]
            speed = speed if timed else []
            table.add_row(budget, layer, row["selector"], *cells, *speed)
        _show(table)
