"""A selection that somebody else made: an engine's dump, another tool's output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Cost, NativeRanker, Ranker, Support
from indexer_probes.records import LayerRecord

INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


@dataclass(frozen=True)
class Recorded:
    """A selection read from a file, best position first.

    path: .npy, integers [query, k] or [set, query, k], for one layer; or .safetensors with one such
          tensor per layer named `layer.<n>`. One row for each captured query, one set for all heads
          or one a query head. -1 marks an empty place and may stand anywhere.
    What the file holds is not corrected: duplicate, future and out-of-range positions are for the
    measures to count.
    """

    path: Path

    def fit(self, record: LayerRecord) -> Ranker:
        return NativeRanker(_checked(self.path, _read(self.path, record.layer), record))

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """nan: a file does not say what its maker read."""
        return Cost(bytes_read=float("nan"), multiply_adds=float("nan"))


def _read(path: Path, layer: int) -> Tensor:
    if not path.is_file():
        raise InputError(f"recorded selection {str(path)!r}: there is no such file")
    if path.suffix == ".npy":
        return _read_npy(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, f"layer.{layer}")
    raise InputError(
        f"recorded selection {str(path)!r}: expected .npy or .safetensors, not {path.suffix!r}"
    )


def _read_npy(path: Path) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"recorded selection {str(path)!r} is no whole .npy: {error}") from error
    if array.dtype.kind not in "iu":
        raise InputError(f"recorded selection {str(path)!r} holds {array.dtype}, not integers")
    return torch.from_numpy(array.astype(np.int64))


def _read_safetensors(path: Path, name: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if name in names:
                stored: Tensor = file.get_tensor(name)
                return stored
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"recorded selection {str(path)!r} is no whole .safetensors: {error}"
        ) from error
    raise InputError(
        f"recorded selection {str(path)!r} has no tensor {name!r}; it holds "
        f"{', '.join(names[:8]) or 'nothing'}"
    )


def _checked(path: Path, stored: Tensor, record: LayerRecord) -> Support:
    """int64 [set, query, k] with the empty places moved to the end. Raises InputError."""
    where = f"recorded selection {str(path)!r}, layer {record.layer}"
    shape = tuple(stored.shape)
    if stored.dtype not in INTEGERS:
        raise InputError(f"{where}: holds {stored.dtype}, not integers")
    if stored.ndim not in (2, 3) or 0 in shape:
        raise InputError(f"{where}: shape {shape}; expected [query, k] or [set, query, k]")
    support = stored.long().reshape(-1, *shape[-2:])
    if support.shape[1] != record.rows:
        raise InputError(
            f"{where}: {support.shape[1]} rows, and the capture holds {record.rows} queries"
        )
    if support.shape[0] not in (1, record.heads):
        raise InputError(
            f"{where}: {support.shape[0]} sets; expected 1 or one for each of {record.heads} heads"
        )
    order = (support == -1).int().argsort(dim=-1, stable=True)
    return support.gather(-1, order).to(record.queries.device)
