"""Folders as a report reads them: whole, half-written or empty, each says which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from indexer_lab.errors import InputError
from indexer_lab.report.content import Picture, Table, plural
from indexer_lab.report.gallery import origin_of, pictures, verdict_records, verdict_tables
from indexer_lab.store.capture import Capture, SampleInfo, read_samples
from indexer_lab.store.files import ORIGIN, read_json
from indexer_lab.store.quality import open_quality
from indexer_lab.store.scores import open_scores

COLUMNS = [
    "sample", "task", "length", "layer", "head", "position", "budget", "sets", "trivial",
    "selector", "target", "level", "recall", "mass", "output_error",
    "duplicates", "future", "out_of_range", "missing",
]  # fmt: skip
"""What a report reads of a score table."""
RELATED = {
    "relations": {"question", "x", "method", "held", "estimate", "low", "reason"},
    "predictors": {"name", "r2"},
    "thresholds": {"x", "budget", "estimate"},
}
"""The tables of relate that a report shows, and columns that each has."""


@dataclass(frozen=True)
class Run:
    """One folder.

    kind:     capture, scores, quality, relate or gallery (figures, verdicts, or both).
    origin:   command, commit, versions and machine, of a gallery's first piece; empty where the
              folder does not say.
    problems: what is missing or damaged, a sentence each.
    frames:   of a score run `scores`, rows of tokens, and `units`, where an indexer selects those.
    """

    kind: str
    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    frames: dict[str, pd.DataFrame] = field(default_factory=dict)
    samples: tuple[SampleInfo, ...] = ()
    pictures: tuple[Picture, ...] = ()
    verdicts: tuple[dict[str, Any], ...] = ()
    sheets: tuple[Table, ...] = ()


def read_run(folder: Path) -> Run:
    """The folder, whatever its state. Raises InputError when it is none of ours."""
    if not folder.exists():
        raise InputError(f"no run at {folder}: that folder does not exist")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; a report reads folders: capture, scores, quality, …")
    if (folder / "manifest.json").exists():
        return _capture(folder)
    if (folder / "run.json").exists():
        return _of_run_json(folder)
    found, drawn = verdict_records(folder), pictures(folder)
    if not found and not drawn:
        raise InputError(
            f"{folder} holds no run: expected a folder that capture, score, quality, relate or "
            "figures made, or one with verdicts of the study"
        )
    origin = origin_of(found[0]) if found else drawn[0].origin
    return Run(
        "gallery", folder, {}, origin, pictures=tuple(drawn), verdicts=tuple(found),
        sheets=tuple(verdict_tables(folder, found)),
    )  # fmt: skip


def _capture(folder: Path) -> Run:
    manifest, origin = _manifest(folder / "manifest.json"), _origin(folder)
    if "layers" not in manifest:
        raise InputError(f"{folder}/manifest.json names no layers: this is no capture of ours")
    try:
        samples = read_samples(folder / "samples.jsonl")
        capture = Capture(folder, manifest, samples)
        lacking = [sample.id for sample in samples if capture.missing(sample)]
    except InputError as error:
        return Run("capture", folder, manifest, origin, (str(error),))
    problem = (
        f"This capture is unfinished: {plural(len(lacking), 'prompt')} of {len(samples):,} lack "
        "layers; finish it with capture --resume."
    )
    return Run(
        "capture", folder, manifest, origin, (problem,) if lacking else (), samples=tuple(samples)
    )


def _of_run_json(folder: Path) -> Run:
    manifest, origin = _manifest(folder / "run.json"), _origin(folder)
    kind = str(manifest.get("kind", "scores"))
    readers = {"scores": _scores, "quality": _quality, "relate": _relate}
    if kind not in readers:
        raise InputError(f"{folder} is a run of kind {kind!r}, which a report cannot read")
    frames, problems = readers[kind](folder, manifest)
    return Run(kind, folder, manifest, origin, tuple(problems), frames)


Found = tuple[dict[str, pd.DataFrame], list[str]]


def _scores(folder: Path, manifest: dict[str, Any]) -> Found:
    layers = len(manifest.get("layers", [])) or 1
    wanted = int(manifest.get("samples", 0)) * layers
    have = len(list((folder / "parts").glob("*/layer-*.parquet")))
    problems = _unfinished("score", have, wanted, "part")
    frames, problems = _read({"all": lambda: open_scores(folder).frame(COLUMNS)}, problems, have)
    if "all" not in frames:
        return {}, problems
    every = frames["all"]
    levels = {"scores": every[every["level"] == "token"], "units": every[every["level"] != "token"]}
    return {name: rows for name, rows in levels.items() if len(rows)}, problems


def _quality(folder: Path, manifest: dict[str, Any]) -> Found:
    have = len(list((folder / "parts").glob("*.parquet")))
    problems = _unfinished("quality", have, int(manifest.get("samples", 0)), "prompt")
    opened = open_quality(folder)
    readers: dict[str, Callable[[], pd.DataFrame | None]] = {
        "quality": opened.frame,
        "speed": opened.speed,
    }
    return _read(readers, problems, have)


def _relate(folder: Path, manifest: dict[str, Any]) -> Found:
    frames, problems = {}, []
    for name, columns in RELATED.items():
        try:
            frame = pd.read_csv(folder / f"{name}.csv")
        except (OSError, ValueError) as error:
            problems.append(f"{name}.csv cannot be read ({error}); run relate again.")
            continue
        if columns <= set(frame.columns):
            frames[name] = frame
        else:
            lost = ", ".join(sorted(columns - set(frame.columns)))
            problems.append(f"{name}.csv lacks {lost}; run relate again.")
    return frames, problems


def _unfinished(command: str, have: int, wanted: int, noun: str) -> list[str]:
    if have == 0:
        return [f"This run is empty: it was begun and holds no {noun} yet."]
    if have < wanted:
        return [
            f"This run is unfinished: {have:,} of {plural(wanted, noun)} are there, and all "
            f"numbers below are of these alone; finish it with {command} --resume."
        ]
    return []


def _read(
    readers: dict[str, Callable[[], pd.DataFrame | None]], problems: list[str], have: int
) -> Found:
    """The tables that can be read; what cannot be is a problem, not an end."""
    frames: dict[str, pd.DataFrame] = {}
    for name, reader in readers.items() if have else ():
        try:
            frame = reader()
        except InputError as error:
            problems.append(str(error))
            continue
        if frame is not None and len(frame):
            frames[name] = frame
    return frames, problems


KINDS: dict[str, type] = {
    "samples": int, "notes": dict,
    **dict.fromkeys(("layers", "budgets", "targets", "selectors", "modes"), list),
}  # fmt: skip
"""Fields of manifests that a report reads, and what they hold."""


def _manifest(path: Path) -> dict[str, Any]:
    found = read_json(path, "run")
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no object; make the run again")
    for name, kind in KINDS.items():
        if name in found and not isinstance(found[name], kind):
            raise InputError(
                f"{path}: {name} is {str(found[name])[:40]!r}, which no command of ours writes"
            )
    return found


def _origin(folder: Path) -> dict[str, Any]:
    try:
        return origin_of(read_json(folder / ORIGIN, "run"))
    except InputError:
        return {}
