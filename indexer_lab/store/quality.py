"""A quality folder: run.json with the resolved settings, one parquet part a sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from indexer_lab.errors import InputError
from indexer_lab.store.capture import SampleInfo
from indexer_lab.store.files import claim, read_json, written

SCHEMA_VERSION = 1
STRINGS = ("sample", "task", "mode", "selector")
INTEGERS = ("length", "budget", "layer", "tokens")
NUMBERS = ("depth", "score", "nll", "delta_nll", "kl", "agreement")

SCHEMA = pa.schema(
    [(name, pa.string()) for name in STRINGS]
    + [(name, pa.int32()) for name in INTEGERS]
    + [(name, pa.float64()) for name in NUMBERS]
)
"""One row per sample x mode x selector x budget x layer; docs/tables.md."""


@dataclass(frozen=True)
class Quality:
    """A quality folder, opened for reading or for more parts."""

    path: Path
    manifest: dict[str, Any]

    def part(self, sample: SampleInfo) -> Path:
        return self.path / "parts" / f"{sample.folder}.parquet"

    def save(self, sample: SampleInfo, table: pa.Table) -> None:
        with written(self.part(sample)) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    def frame(self) -> pd.DataFrame:
        """The whole table, in a fixed order of parts. Raises InputError when it is empty or
        damaged."""
        paths = sorted((self.path / "parts").glob("*.parquet"))
        if not paths:
            raise InputError(f"{self.path} holds no rows yet; finish the run with quality --resume")
        return pa.concat_tables([_read(path) for path in paths]).to_pandas()


def create(
    path: Path, manifest: dict[str, Any], resume: bool = False, force: bool = False
) -> Quality:
    """A quality folder to write into; the same one again when resuming. Raises InputError."""
    manifest = {"schema_version": SCHEMA_VERSION, "kind": "quality", **manifest}
    claim(path, "run.json", manifest, resume, force)
    return Quality(path, manifest)


def open_quality(path: Path) -> Quality:
    """A quality folder to read. Raises InputError when it is none or of another schema version."""
    if not path.is_dir():
        raise InputError(f"no quality rows at {path}: that folder does not exist")
    manifest = read_json(path / "run.json", "quality folder")
    if not isinstance(manifest, dict) or manifest.get("kind") != "quality":
        raise InputError(f"{path} is no quality folder: it was made by another command")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {manifest.get('schema_version')!r}, this version reads "
            f"{SCHEMA_VERSION}: run quality again"
        )
    return Quality(path, manifest)


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        line = str(error).splitlines()[0]
        raise InputError(
            f"{path} is damaged ({line}); delete it and run quality --resume"
        ) from error
