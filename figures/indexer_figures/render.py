"""From scores to files: PNG, SVG, the plotted numbers and where they come from."""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from indexer_figures.drawing import settings
from indexer_figures.errors import FigureError
from indexer_figures.kind import FigureKind
from indexer_figures.page import DPI
from indexer_figures.scope import DEFAULT, Choice
from indexer_figures.styles import selector_looks
from indexer_figures.table import FIGURES

SHOWN = ("target", "level", "task", "trivial_share", "mode", "outcome")


@dataclass(frozen=True)
class Rendered:
    """What one figure left behind: its files, its reading and its text for those who can't see."""

    name: str
    stem: str
    paths: tuple[Path, ...]
    reading: str
    alt: str
    table: pd.DataFrame


def render(
    name: str,
    scores: pd.DataFrame,
    out_dir: str | os.PathLike[str],
    provenance: Mapping[str, Any],
    choice: Choice = DEFAULT,
    stem: str | None = None,
) -> Rendered:
    """Write `<stem>.png`, `.svg`, `.csv` and `.json` into `out_dir`; the stem is the figure's name
    unless another is given, so that one folder can hold a figure of two studies.

    Each file appears whole or not at all; the JSON comes last, so where it is, all are. The same
    scores, choice and provenance give the same bytes. Colours follow the selectors of `scores`,
    so that all figures of one run agree.
    Raises FigureError for an unknown name, and where the scores can't give the figure.
    """
    kind = figure_named(name)
    table = kind.table(scores, choice)
    looks = selector_looks(scores["selector"].unique())
    figure = kind.draw(table, looks)
    pictures = {suffix: _picture(figure, suffix) for suffix in ("png", "svg")}
    files = {**pictures, "csv": table.to_csv(index=False, lineterminator="\n").encode()}
    reading = kind.reading(table)
    alt = f"{kind.title}. {kind.shape}. {reading}"
    record = {
        "figure": name,
        "title": kind.title,
        "question": kind.question,
        "reading": reading,
        "alt": alt,
        "choice": asdict(choice),
        "shown": {key: _plain(table[key]) for key in SHOWN if key in table},
        "sha256": {suffix: hashlib.sha256(data).hexdigest() for suffix, data in files.items()},
        "provenance": dict(provenance),
    }
    text = json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n"
    files["json"] = text.encode()
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    stem = stem or name
    paths = tuple(_write(folder / f"{stem}.{suffix}", data) for suffix, data in files.items())
    return Rendered(name, stem, paths, reading, alt, table)


def figure_named(name: str) -> FigureKind:
    """The figure of that name; raises FigureError that names the nearest one."""
    if name in FIGURES:
        return FIGURES[name]
    near = get_close_matches(name, FIGURES, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise FigureError(f"no figure {name!r} (there are {', '.join(FIGURES)}){hint}")


def _picture(figure: Figure, suffix: str) -> bytes:
    # Without these two, matplotlib would write the date and its own version into the file.
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[suffix]
    stream = io.BytesIO()
    with settings():
        figure.savefig(stream, format=suffix, dpi=DPI, metadata=metadata)
    return stream.getvalue()


def _plain(column: pd.Series) -> Any:
    values = sorted(set(column.tolist()))
    return values[0] if len(values) == 1 else values


def _write(path: Path, data: bytes) -> Path:
    """Write under another name, then rename: a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
