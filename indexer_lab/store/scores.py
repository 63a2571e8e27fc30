"""A score folder: run.json with the resolved settings, one parquet part a sample and layer."""

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


@dataclass(frozen=True)
class Scores:
    """A score folder, opened for reading or for more parts."""

    path: Path
    manifest: dict[str, Any]

    def part(self, sample: SampleInfo, layer: int) -> Path:
        return self.path / "parts" / sample.folder / f"layer-{layer:02d}.parquet"

    def save(self, sample: SampleInfo, layer: int, table: pa.Table) -> None:
        with written(self.part(sample, layer)) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    def frame(self, columns: list[str] | None = None) -> pd.DataFrame:
        """The whole score table, in a fixed order of parts.

        columns: only these, since the table is wide. Raises InputError when there is no part, or
        one is damaged.
        """
        paths = sorted((self.path / "parts").glob("*/layer-*.parquet"))
        if not paths:
            raise InputError(f"{self.path} holds no scores yet; finish the run with score --resume")
        return pa.concat_tables([_read(path, columns) for path in paths]).to_pandas()

    def tokens(self, columns: list[str] | None = None) -> pd.DataFrame:
        """`frame` without the rows of units, whose budgets count other things: what figures draw
        and quality is related to. A table of one kind of row is as it is on disk."""
        frame = self.frame(None if columns is None else [*columns, "level"])
        kept = frame[frame["level"] == "token"]
        return kept if columns is None else kept[columns]


def create(
    path: Path, manifest: dict[str, Any], resume: bool = False, force: bool = False
) -> Scores:
    """A score folder to write into; the same one again when resuming. Raises InputError."""
    manifest = {"schema_version": SCHEMA_VERSION, **manifest}
    claim(path, "run.json", manifest, resume, force)
    return Scores(path, manifest)


def open_scores(path: Path) -> Scores:
    """A score folder to read. Raises InputError when it is none or of another schema version."""
    if not path.is_dir():
        raise InputError(f"no scores at {path}: that folder does not exist")
    manifest = read_json(path / "run.json", "score folder")
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version!r}, this version reads {SCHEMA_VERSION}: score "
            "again"
        )
    return Scores(path, manifest)


def _read(path: Path, columns: list[str] | None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns).unify_dictionaries()
    except (pa.ArrowInvalid, OSError) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"{path} is damaged ({line}); delete it and run score --resume") from error
