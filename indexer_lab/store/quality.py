"""A quality folder: run.json with the resolved settings, three parquet parts a sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from indexer_lab.errors import InputError
from indexer_lab.measures.concentration import FACTS, SELECTED
from indexer_lab.store.capture import SampleInfo
from indexer_lab.store.files import claim, read_json, written

SCHEMA_VERSION = 2
STRINGS = ("sample", "task", "mode", "selector")
INTEGERS = ("length", "budget", "layer", "tokens")
NUMBERS = ("depth", "score", "nll", "delta_nll", "kl", "agreement", "bits_per_byte")


def _schema(strings: Any, integers: Any, numbers: Any, number: pa.DataType) -> pa.Schema:
    return pa.schema(
        [(name, pa.string()) for name in strings]
        + [(name, pa.int32()) for name in integers]
        + [(name, number) for name in numbers]
    )


SCHEMA = _schema(STRINGS, INTEGERS, NUMBERS, pa.float64())
"""One row per sample x mode x selector x budget x layer; docs/tables.md."""

ENTROPY = _schema(
    (*STRINGS, "phase"),
    ("length", "budget", "layer", "head", "position", "visible"),
    (*FACTS, *SELECTED),
    pa.float32(),
)
"""One row per sample x mode x selector x budget x layer x head x query; docs/tables.md."""

SPEED = _schema(
    STRINGS,
    (*INTEGERS, "batch"),
    ("seconds", "tokens_per_second", "dense_tokens_per_second"),
    pa.float64(),
)
"""One row per row of SCHEMA; apart from it, since a time is never the same twice."""


@dataclass(frozen=True)
class Sheets:
    """The tables of one sample.

    speed:   None where somebody else's code runs the model and its time says little.
    entropy: None when it was not asked for.
    """

    quality: pa.Table
    speed: pa.Table | None = None
    entropy: pa.Table | None = None


@dataclass(frozen=True)
class Quality:
    """A quality folder, opened for reading or for more parts."""

    path: Path
    manifest: dict[str, Any]

    def part(self, sample: SampleInfo) -> Path:
        """Its quality rows, which are written last: where they are, all of the sample is."""
        return self._part("parts", sample)

    def save(self, sample: SampleInfo, sheets: Sheets) -> None:
        for kind, table in (
            ("entropy", sheets.entropy),
            ("speed", sheets.speed),
            ("parts", sheets.quality),
        ):
            if table is not None:
                with written(self._part(kind, sample)) as temporary:
                    pq.write_table(table, temporary, compression="zstd")

    def frame(self) -> pd.DataFrame:
        """The whole table, in a fixed order of parts. Raises InputError when it is empty or
        damaged."""
        return self._frame("parts")

    def speed(self) -> pd.DataFrame | None:
        """How fast each row of `frame` was made; None where it was not taken. Raises InputError as
        `frame` does."""
        return self._frame("speed") if (self.path / "speed").is_dir() else None

    def entropy(self, columns: list[str] | None = None) -> pd.DataFrame | None:
        """The entropy rows, or None when the run was made without. Raises InputError as `frame`."""
        asked = self.manifest.get("entropy") is not None
        return self._frame("entropy", columns) if asked else None

    def _part(self, kind: str, sample: SampleInfo) -> Path:
        return self.path / kind / f"{sample.folder}.parquet"

    def _frame(self, kind: str, columns: list[str] | None = None) -> pd.DataFrame:
        whole = sorted((self.path / "parts").glob("*.parquet"))
        if not whole:
            raise InputError(f"{self.path} holds no rows yet; finish the run with quality --resume")
        tables = [_read(self.path / kind / path.name, columns) for path in whole]
        return pa.concat_tables(tables).to_pandas()


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


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        line = str(error).splitlines()[0]
        raise InputError(
            f"{path} is damaged ({line}); delete the sample's part in {path.parent.parent}/parts "
            "and run quality --resume"
        ) from error
