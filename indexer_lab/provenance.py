"""Where a result came from: enough to make it again."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("indexer-lab", "torch", "transformers", "numpy", "pandas", "faiss-cpu", "faiss-gpu")


def provenance(inputs: Mapping[str, Any], seed: int | None = None) -> dict[str, Any]:
    """What a result file says of its origin.

    inputs: name -> digest or manifest of what the result was made from.
    """
    return {
        "command": command_line(),
        "commit": commit(),
        "seed": seed,
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {"system": platform.system(), "processor": platform.machine()},
        "inputs": dict(inputs),
    }


def command_line() -> str:
    """The command as typed, the program by its bare name."""
    program = Path(sys.argv[0])
    ran = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join([*ran, *sys.argv[1:]])


def commit() -> str | None:
    """The commit of the checkout that this package runs from; None outside one."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
