"""The text that needles are planted in: source files of the running Python's standard library.

Nothing is downloaded. The files of another Python version differ, so samples are the same for the
same seed and the same Python version; a capture's manifest records a digest of its prompts.
Training adds the sources of installed dependencies, evaluation never does.
"""

from __future__ import annotations

import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from indexer_lab.errors import InputError
from indexer_lab.tasks.words import split_of

LONGEST_LINE = 200
LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "__pycache__"}
TABLES = {"encodings", "pydoc_data"}  # long tables of numbers and one enormous dictionary
DEPENDENCIES = ("numpy", "scipy", "pandas", "torch", "transformers")


@cache
def files(split: str) -> tuple[Path, ...]:
    """The sources that belong to a split, in a fixed order.

    The split goes by a hash of the file's path below its library, so that no file is in both.
    Raises InputError when this Python comes without its sources.
    """
    chosen = _below(Path(sysconfig.get_paths()["stdlib"]), split)
    if not chosen:
        raise InputError("this Python comes without the sources of its standard library: use one")
    if split == "train":
        chosen += tuple(path for root in _dependencies() for path in _below(root, split))
    return chosen


def _below(root: Path, split: str) -> tuple[Path, ...]:
    found = (path.relative_to(root) for path in root.rglob("*.py"))
    kept = sorted(path for path in found if not (LEFT_OUT | TABLES).intersection(path.parts))
    return tuple(root / path for path in kept if split_of(path.as_posix()) == split)


def _dependencies() -> list[Path]:
    """Folders of the installed dependencies, found without importing them."""
    specs = (find_spec(name) for name in DEPENDENCIES)
    places = (spec.submodule_search_locations for spec in specs if spec is not None)
    return [Path(place[0]) for place in places if place]


@cache
def lines(path: Path) -> tuple[str, ...]:
    """A file's lines, each with its line end; empty and very long ones are left out."""
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = (row.rstrip() for row in text.splitlines())
    return tuple(row + "\n" for row in rows if 0 < len(row) <= LONGEST_LINE)
