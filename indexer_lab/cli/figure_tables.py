"""The tables that figures read, out of the folders that score, quality and relate leave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from indexer_lab.errors import InputError
from indexer_lab.quality.trial import DENSE
from indexer_lab.store.files import read_json
from indexer_lab.store.quality import Quality, open_quality
from indexer_lab.store.scores import open_scores

SOURCES = {
    "scores": "a score folder",
    "quality": "a quality folder",
    "entropy": "a quality folder that was not made with --entropy none",
    "pairs": "a folder of relate",
    "study": "a table that a script of analyses/ makes and draws itself",
}
"""Source of a figure -> where it is."""


@dataclass(frozen=True)
class Source:
    """A table, the kind of folder it is from, and that folder's manifest."""

    frame: pd.DataFrame
    folder: str
    manifest: dict[str, Any]


def sources(folders: tuple[Path, ...]) -> dict[str, Source]:
    """Every table of these folders, by source. Raises InputError for a folder that is none of ours,
    and for two of a kind."""
    if not folders:
        raise InputError("give a folder that score, quality or relate made: what is to be drawn?")
    found: dict[str, Source] = {}
    for folder in folders:
        for name, source in _tables(folder).items():
            if name in found:
                raise InputError(f"{folder} is a second folder of its kind; give one of each")
            found[name] = source
    return found


def _tables(folder: Path) -> dict[str, Source]:
    if not folder.is_dir():
        raise InputError(f"no results at {folder}: that folder does not exist")
    manifest = read_json(folder / "run.json", "folder that score, quality or relate made")
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind == "quality":
        quality = open_quality(folder)
        return _quality_tables(quality)
    if kind == "relate":
        return {"pairs": Source(_pairs(folder, manifest), "relate", manifest)}
    scores = open_scores(folder)
    return {"scores": Source(scores.tokens(), "scores", scores.manifest)}


def _quality_tables(quality: Quality) -> dict[str, Source]:
    frame, entropy = quality.frame(), quality.entropy()
    if entropy is None:
        return {"quality": Source(frame, "quality", quality.manifest)}
    frame["entropy"] = frame["sample"].map(decode_entropy(entropy))
    return {
        "quality": Source(frame, "quality", quality.manifest),
        "entropy": Source(entropy, "quality", quality.manifest),
    }


def decode_entropy(entropy: pd.DataFrame) -> pd.Series:
    """Each sample's mean entropy over the dense model's decode steps, layers and heads."""
    dense = entropy[(entropy["selector"] == DENSE) & (entropy["phase"] == "decode")]
    return dense.groupby("sample")["entropy"].mean()


def _pairs(folder: Path, manifest: dict[str, Any]) -> pd.DataFrame:
    path = folder / "pairs.csv"
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); run relate again") from error
    return table.assign(target=manifest["notes"]["target"], mode=manifest["notes"]["mode"])
