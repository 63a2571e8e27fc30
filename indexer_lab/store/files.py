"""Files that are whole or absent: written beside their name, flushed, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from indexer_lab.errors import InputError, OutOfRoom
from indexer_lab.provenance import provenance

ORIGIN = "origin.json"
"""Beside each manifest: the command, commit, versions and machine that began the run. It is no part
of the manifest, since a run may be resumed by another command."""

FULL = (errno.ENOSPC, errno.EDQUOT)
SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it there when the body ends without error.

    Raises OutOfRoom on a full disk and InputError where the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write `path` into a sentence for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise _full(path) from error
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {path}: {reason}; choose another --output") from error
    except SafetensorError as error:  # it hands the system's error on as words alone
        if any(f"(os error {number})" in str(error) for number in FULL):
            raise _full(path) from error
        raise


def _full(path: Path) -> OutOfRoom:
    return OutOfRoom(
        f"the disk is full: {path} could not be written; free some room and run the same command "
        "with --resume, what is complete is kept"
    )


def write_json(path: Path, content: Any) -> None:
    """The content as sorted, indented JSON; whole or absent."""
    with written(path) as temporary:
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path, what: str) -> Any:
    """The parsed file. Raises InputError when it is absent or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} is no {what}: it has no {path.name}") from None
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}); make the {what} again"
        ) from None


def read_yaml(path: Path, what: str) -> Any:
    """The parsed file. Raises InputError when it is absent or no YAML."""
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no {what} at {path}: that file does not exist") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as YAML ({line})") from None


def folder_name(identifier: str) -> str:
    """A folder name for a sample id: the id itself where that is safe, else a digest of it."""
    if SAFE_ID.fullmatch(identifier) and not identifier.startswith("sha-"):
        return identifier
    return "sha-" + hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def digest(content: Any) -> str:
    """sha256 of the content's canonical JSON, 16 hex digits."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differing(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The fields in which two manifests differ, as `field: old -> new` pieces; "" when equal."""
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return "; ".join(f"{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in names)


def claim(folder: Path, name: str, manifest: dict[str, Any], resume: bool, force: bool) -> None:
    """Makes `folder` this run's: writes its manifest and ORIGIN, or checks the one that stands.

    force empties the folder if it is one of ours; resume accepts a run with the same manifest and
    no other. Raises InputError when the folder holds another run or files of another origin.
    """
    path = folder / name
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --output must name a folder")
    if path.exists() and force:
        shutil.rmtree(folder)
    elif path.exists():
        stands = read_json(path, "run")
        changed = differing(stands, manifest)
        if not resume:
            raise InputError(
                f"{folder} already holds a run; add --resume to go on or --force to redo"
            )
        if changed:
            raise InputError(
                f"{folder} holds another run ({changed}); use --force or another --output"
            )
        return
    elif folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no run of ours; choose another --output")
    write_json(path, manifest)
    write_json(folder / ORIGIN, provenance({}, manifest.get("seed")))


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk that `folder` is on, also when it does not exist yet."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; 0 when it is not there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
