"""Writes figures/gallery/README.md: every figure there, what it shows and how to make it again.

    python analyses/gallery.py

Verdicts come first, in the order of the study, each with its figures; then figures that commands
drew. All words come from the records beside the figures.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from run import SCRIPTS

from indexer_lab.cli import sentence
from indexer_lab.errors import InputError
from indexer_lab.store.files import read_json, written
from study.arguments import GALLERY

HEAD = """# Gallery

Every figure with its reading, and the command that makes it again from a fresh checkout. Beside
each PNG lie the same picture as SVG, the plotted numbers as CSV and their origin as JSON. This page
is written by `python analyses/gallery.py`.
"""


def page(folder: Path) -> str:
    """The README of a gallery. Raises InputError for a record that cannot be read, for a figure
    without one or with other numbers than were plotted, and for a file that no record speaks of."""
    records = {path.stem: read_json(path, "gallery") for path in sorted(folder.glob("*.json"))}
    figures = {name: found for name, found in records.items() if "figure" in found}
    verdicts = {name: records[name] for name in SCRIPTS if name in records}
    _all_told(folder, figures, verdicts)
    parts = [HEAD, *(_verdict(found, figures) for found in verdicts.values())]
    told = {name for found in verdicts.values() for name in found["figures"]}
    others = [_figure(name, found) for name, found in figures.items() if name not in told]
    parts += ["## Drawn by commands\n", *others] if others else []
    return "\n".join(parts)


def _verdict(found: dict[str, Any], figures: dict[str, Any]) -> str:
    lines = [
        f"## {_text(found['claim'])}\n",
        f"**{found['finding'].capitalize()}.** {_text(found['sentence'])}\n",
        *(f"{_text(caveat)}\n" for caveat in found["caveats"]),
        f"`{found['command']}`, {found['seconds']:.0f} seconds\n",
        "| number | estimate | 95 % interval | unit | prompts |\n|---|---|---|---|---|",
        *map(_row, found["numbers"]),
        "",
        *(_figure(name, figures[name], command=False) for name in found["figures"]),
    ]
    tables = ", ".join(f"[{name}]({name})" for name in found["tables"])
    return "\n".join([*lines, f"Tables: {tables}\n"] if tables else lines)


def _row(number: dict[str, Any]) -> str:
    low, high = number["low"], number["high"]
    known = low is not None or high is not None
    ends = f"{_value(low)} to {_value(high)}" if known else _text(number["reason"]) or "–"
    name, unit = _text(number["name"]), _text(number["unit"])
    return f"| {name} | {_value(number['estimate'])} | {ends} | {unit} | {number['n']} |"


def _figure(name: str, found: dict[str, Any], command: bool = True) -> str:
    files = " · ".join(f"[{suffix.upper()}]({name}.{suffix})" for suffix in ("svg", "csv", "json"))
    lines = [
        f"![{_text(found['alt'])}]({name}.png)\n",
        f"*{_text(found['title'])}.* {_text(found['reading'])} {files}\n",
    ]
    return "\n".join([*lines, f"`{found['provenance']['command']}`\n"] if command else lines)


def _all_told(folder: Path, figures: dict[str, Any], verdicts: dict[str, Any]) -> None:
    owned = {f"{name}.{suffix}" for name in figures for suffix in ("png", "svg", "csv", "json")}
    owned |= {f"{name}.json" for name in verdicts} | {"README.md"}
    owned |= {table for found in verdicts.values() for table in found["tables"]}
    missing = sorted(name for name in owned - {"README.md"} if not (folder / name).exists())
    if missing:
        raise InputError(f"{folder} lacks {missing[0]}: run the script that makes it again")
    for name, found in figures.items():
        digest = hashlib.sha256((folder / f"{name}.csv").read_bytes()).hexdigest()
        if digest != found["sha256"]["csv"]:
            raise InputError(f"{folder / name}.csv is not what was plotted: draw {name} again")
    owners: dict[str, str] = {}
    for name, found in verdicts.items():
        for figure in found["figures"]:
            other = owners.setdefault(figure, name)
            if other != name:
                raise InputError(f"{other} and {name} both draw {figure}: one has overwritten the "
                                 "other; give one of them another stem")  # fmt: skip
        unknown = set(found["figures"]) - set(figures)
        if unknown:
            raise InputError(f"{name}.json shows {min(unknown)!r}, which has no record: run "
                             f"analyses/{name}.py again")  # fmt: skip
    extra = sorted(path.name for path in folder.iterdir() if path.name not in owned)
    if extra:
        raise InputError(f"no record in {folder} speaks of {', '.join(extra)}: delete what is old")


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _text(text: str) -> str:
    """Words that stay words inside Markdown and its tables, whatever names are in them."""
    return "".join(_marked(" ".join(text.split())))


def _marked(text: str) -> Iterator[str]:
    for char in text:
        yield f"\\{char}" if char in "\\`*_[]|<>" else char


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=GALLERY, help=f"of a gallery ({GALLERY})")
    folder = parser.parse_args().folder
    try:
        text = page(folder)
        with written(folder / "README.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
    except Exception as error:
        spoken = sentence(error)
        if spoken is None:
            raise
        sys.exit(f"error: {spoken[0]}")
    print(folder / "README.md")


if __name__ == "__main__":
    main()
