"""What a safetensors file says of its tensors, held against the bytes that are really there.

The header is read here and not by the library, which maps the whole file: a layer is read with
plain reads, whose rate can be held against the disk's own, into memory of our choosing.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from indexer_probes.errors import ProbeError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LENGTH_BYTES = 8
MOST_HEADER = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint: `size` bytes of `file` from byte `start` on."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int


def plain(dtype: torch.dtype) -> str:
    """`bfloat16` for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file by name.

    Raises ProbeError when the file cannot be read, is shorter or longer than its header says, or
    when its header contradicts itself.
    """
    try:
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(LENGTH_BYTES), "little")
            total = file.stat().st_size
            if total < LENGTH_BYTES or not 2 <= length <= min(MOST_HEADER, total - LENGTH_BYTES):
                raise _broken(file, f"it has {total} bytes and no whole header")
            header = json.loads(handle.read(length))
    except OSError as error:
        raise ProbeError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, ProbeError):
            raise
        raise _broken(file, f"its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise _broken(file, "its header is no table of tensors")
    data = LENGTH_BYTES + length
    header.pop("__metadata__", None)
    entries = {name: _entry(file, name, facts, data) for name, facts in header.items()}
    _refuse_holes(file, list(entries.values()), data, total)
    return entries


def _entry(file: Path, name: str, facts: Any, data: int) -> Entry:
    try:
        kind, shape = facts["dtype"], tuple(facts["shape"])
        first, last = facts["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, first, last))
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(file, f"its header says nothing usable of {name}") from error
    if not whole:
        raise _broken(file, f"its header gives {name} a shape or place that is no whole number")
    if kind not in DTYPES:
        raise ProbeError(f"{file}: {name} has dtype {kind}; known are {', '.join(DTYPES)}")
    dtype = DTYPES[kind]
    needed = math.prod(shape) * dtype.itemsize
    if last - first != needed:
        raise _broken(
            file,
            f"{name} of shape {shape} and dtype {kind} needs {needed} bytes, not {last - first}",
        )
    return Entry(name, file, dtype, shape, data + first, needed)


def _refuse_holes(file: Path, entries: list[Entry], data: int, total: int) -> None:
    """Tensors must follow each other without gap or overlap, to the file's last byte."""
    end = data
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.size)):
        if entry.start != end:
            raise _broken(file, f"{entry.name} does not begin where the tensor before it ends")
        end += entry.size
    if end != total:
        raise _broken(file, f"it has {total} bytes and its header promises {end}")


def _broken(file: Path, what: str) -> ProbeError:
    return ProbeError(f"{file} is truncated or broken: {what}; fetch it again")
