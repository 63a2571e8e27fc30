"""Figures and study verdicts out of a folder that holds either."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from indexer_figures import FIGURES
from indexer_lab.report.content import Picture, Table, framed

PNG = b"\x89PNG\r\n\x1a\n"
STATES = ("supported", "not supported", "undecided here")


def pictures(folder: Path) -> list[Picture]:
    """The figures that `indexer-lab figures` left there, each with its PNG; others are no figures
    of ours and are passed over. Those that a verdict tells of come first, in its order; the others
    as `ls figures` has them."""
    told = [name for record in verdict_records(folder) for name in listed(record, "figures")]
    order = {name: place for place, name in enumerate(dict.fromkeys([*map(str, told), *FIGURES]))}
    found = [
        picture
        for path, record in _records(folder)
        if isinstance(record.get("reading"), str) and (picture := _picture(path, record))
    ]
    return sorted(found, key=lambda picture: (order.get(picture.name, len(order)), picture.name))


def verdict_records(folder: Path) -> list[dict[str, Any]]:
    """The verdicts that scripts of the study left there."""
    return [
        record
        for _, record in _records(folder)
        if record.get("kind") == "verdict"
        and record.get("finding") in STATES
        and isinstance(record.get("sentence"), str)
    ]


def verdict_tables(folder: Path, records: list[dict[str, Any]]) -> list[Table]:
    """The tables that verdicts name, whole; a name that is no plain file name is passed over."""
    named = dict.fromkeys(str(name) for record in records for name in listed(record, "tables"))
    found = []
    for name in named:
        if name != Path(name).name or not name.endswith(".csv"):
            continue
        try:
            found.append(framed(name, pd.read_csv(folder / name)))
        except (OSError, ValueError):
            continue
    return found


def origin_of(record: object) -> dict[str, Any]:
    """What a record says of its origin, as far as it is of the types that we write."""
    kinds = {"command": str, "commit": str, "seed": int, "versions": dict, "machine": dict,
             "inputs": dict}  # fmt: skip
    known = record if isinstance(record, dict) else {}
    return {name: known[name] for name, kind in kinds.items() if isinstance(known.get(name), kind)}


def listed(record: dict[str, Any], name: str) -> list[Any]:
    """A field that holds a list; empty where it holds anything else."""
    found = record.get(name)
    return found if isinstance(found, list) else []


def _records(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            continue
        if isinstance(record, dict):
            yield path, record


def _picture(path: Path, record: dict[str, Any]) -> Picture | None:
    try:
        data = path.with_suffix(".png").read_bytes()
    except OSError:
        return None
    if not data.startswith(PNG) or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    return Picture(
        name=path.stem,
        title=str(record.get("title") or path.stem),
        question=str(record.get("question") or ""),
        reading=str(record["reading"]),
        alt=str(record.get("alt") or record["reading"]),
        uri=f"data:image/png;base64,{base64.b64encode(data).decode()}",
        width=width,
        height=height,
        table=_plotted(path.with_suffix(".csv")),
        source=str(path),
        origin=origin_of(record.get("provenance")),
    )


def _plotted(path: Path) -> Table | None:
    """The plotted numbers; columns that say the same in every row are left out."""
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError):
        return None
    varying = [name for name in frame if frame[name].nunique(dropna=False) > 1]
    return framed("The numbers that the figure plots", frame[varying] if varying else frame)
