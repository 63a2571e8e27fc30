"""The report step: folders in, one HTML file out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from indexer_lab.errors import InputError
from indexer_lab.provenance import command_line
from indexer_lab.report.content import Picture
from indexer_lab.report.document import Document, document
from indexer_lab.report.gallery import pictures
from indexer_lab.report.html import html
from indexer_lab.report.runs import Run, read_run
from indexer_lab.store.files import written

DRAWN = {"scores": "scores", "quality": "quality", "relate": "relations"}
"""Kinds of folder that figures can be drawn of, and the table that shows one to be readable."""


def report_step(
    *,
    runs: tuple[Path, ...],
    output: Path,
    no_figures: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> Document:
    """Reads the folders, draws their figures unless a folder of figures is among them, and writes
    the file; see `report --help`."""
    if output.is_dir():
        raise InputError(f"--output {output} is a folder; name the HTML file: {output}/report.html")
    found = [read_run(folder) for folder in dict.fromkeys(runs)]
    has_figures = any(run.pictures for run in found)
    drawn = [] if no_figures or has_figures else list(_drawn(found, quiet or as_json))
    made = document(found, drawn, command_line())
    with written(output) as temporary:
        temporary.write_text(html(made), encoding="utf-8")
    return made


def _drawn(runs: list[Run], quiet: bool) -> Iterator[Picture]:
    """The figures of each set of folders: the first of every kind together, then the second."""
    from indexer_lab.cli.figures_step import figures_step

    readable = {
        kind: [run.path for run in runs if run.kind == kind and table in run.frames]
        for kind, table in DRAWN.items()
    }
    for together in zip_longest(*readable.values()):
        folders = tuple(path for path in together if path is not None)
        with tempfile.TemporaryDirectory(prefix="indexer-lab-") as folder:
            try:
                figures_step(folders=folders, output=Path(folder), quiet=quiet)
            except InputError:  # nothing here can be drawn; the tables and warnings say why
                continue
            yield from pictures(Path(folder))
