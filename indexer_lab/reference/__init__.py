"""The reference models that ship with the package, by name."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The shipped models."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def resolve(name_or_path: str) -> str:
    """The folder of a shipped model; any other name or path is returned unchanged."""
    return str(FOLDER / name_or_path) if name_or_path in names() else name_or_path
