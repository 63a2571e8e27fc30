"""Integer arrays out of files and bytes that nobody vouches for. Nothing is unpickled."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from indexer_lab.errors import InputError

Integers = NDArray[np.int64]
MAGIC = npy.MAGIC_PREFIX


def of_file(path: Path) -> dict[str, Integers]:
    """The arrays of a .npy ("" is its name), .npz or .safetensors. Raises InputError."""
    readers = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}
    return readers[path.suffix](path)


def of_npy(where: str, data: bytes) -> Integers:
    """The array of a .npy file's bytes. Raises InputError; an announced size is held against the
    bytes that are there before anything is allocated."""
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, kind = reader(stream)
        integers(where, kind)
        there = len(data) - stream.tell()
        if math.prod(shape) * kind.itemsize != there:
            raise ValueError(f"its header says {shape} of {kind}, and {there:,} bytes follow")
        stream.seek(0)
        return np.asarray(npy.read_array(stream, allow_pickle=False), dtype=np.int64)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{where} is no whole .npy: {_line(error)}") from None


def integers(where: str, kind: np.dtype[np.generic]) -> None:
    """Raises InputError for a dtype that is no integer."""
    if kind.kind not in "iu":
        raise InputError(f"{where} holds {kind}, not integers")


def _npy(path: Path) -> dict[str, Integers]:
    return {"": of_npy(str(path), _bytes(path))}


def _npz(path: Path) -> dict[str, Integers]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            packed = max(1, path.stat().st_size)
            if size > 1000 * packed:  # deflate's own limit is near it: nothing honest packs so well
                raise InputError(f"{path} unpacks to {size:,} bytes from {packed:,}; not read")
            return {
                name.removesuffix(".npy"): of_npy(f"{path}, {name}", archive.read(name))
                for name in archive.namelist()
            }
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path} is no whole .npz: {_line(error)}") from None


def _safetensors(path: Path) -> dict[str, Integers]:
    found = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                tensor = file.get_tensor(name)
                integers(f"{path}, {name}", tensor.dtype)
                found[name] = tensor.astype(np.int64)
    except (SafetensorError, OSError, TypeError) as error:
        raise InputError(f"{path} is no whole .safetensors: {_line(error)}") from None
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
