"""Figures and tables of a script, written beside its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from indexer_figures import Choice, render
from indexer_lab.cli.figures_step import figures_step
from indexer_lab.provenance import provenance
from indexer_lab.store.files import told, written
from study.arguments import Asked


def draw(asked: Asked, name: str, *folders: Path, stem: str | None = None, **choice: Any) -> str:
    """Draws one figure of score, quality or relate folders; returns its stem in the gallery.

    stem:   of its files; the figure's own name unless two scripts draw that figure.
    choice: what `figures_step` takes: target, budget, task, selectors, mode.
    """
    files = {name: stem or name}
    figures_step(
        folders=folders, output=asked.output, names=(name,), stems=files, quiet=True, **choice
    )
    return files[name]


def draw_table(
    asked: Asked,
    name: str,
    table: pd.DataFrame,
    inputs: Mapping[str, Any],
    stem: str | None = None,
    choice: Choice | None = None,
) -> str:
    """Draws one figure of a table that the script made; returns its stem in the gallery.

    inputs: name -> digest or manifest of what the table was made from.
    """
    origin = provenance(inputs, asked.seed)
    with told(asked.output):
        made = render(name, table, asked.output, origin, choice or Choice(), stem)
    return made.stem


def write_table(asked: Asked, name: str, table: pd.DataFrame) -> str:
    """Writes `<script>_<name>.csv`, six digits a number; returns its file name."""
    path = asked.output / f"{asked.script}_{name}.csv"
    with written(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return path.name
