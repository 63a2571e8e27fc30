"""A verdict on disk: plain JSON, whatever numpy and pandas made its values of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from indexer_lab.provenance import provenance
from study.arguments import Asked, Script
from study.claim import Verdict

SCHEMA_VERSION = 1


def record(
    script: Script,
    asked: Asked,
    verdict: Verdict,
    seconds: float,
    command: str,
    tables: list[str],
    figures: list[str],
) -> dict[str, Any]:
    """What `<script>.json` says: the claim, what became of it, and how to make it again.

    seconds: of this run; where it resumed another one, less than the whole took.
    tables, figures: file names of the CSVs, stems of the figures, in the order of the story.
    """
    origin = provenance({}, asked.seed)
    found: dict[str, Any] = plain(
        {
            "kind": "verdict",
            "schema_version": SCHEMA_VERSION,
            "script": script.name,
            "claim": script.claim,
            **asdict(verdict),
            "figures": figures,
            "tables": tables,
            "seconds": round(seconds, 1),
            "resumed": asked.resume,
            "settings": asked.settings(),
            **{key: origin[key] for key in ("seed", "commit", "versions", "machine")},
            "command": command,
        }
    )
    return found


def plain(value: Any) -> Any:
    """The value in JSON's own types: booleans stay booleans, what is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | np.ndarray):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
