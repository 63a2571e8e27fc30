"""A selection that somebody else made: an engine's dump, another tool's output."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Cost, NativeRanker, Ranker, Support
from indexer_lab.store.fingerprint import fingerprint
from indexer_probes.records import LayerRecord

INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


@dataclass(frozen=True)
class Recorded:
    """A selection read from a file, best position first.

    path: .npy, integers [query, k] or [set, query, k], for one layer; or .safetensors with one such
          tensor per layer named `layer.<n>`, or per sample and layer as `import-selection` writes
          them, found by the record's queries. One row for each captured query, one set for all
          heads or one a query head. -1 marks an empty place and may stand anywhere.
    What the file holds is not corrected: duplicate, future and out-of-range positions are for the
    measures to count.
    """

    path: Path

    def fit(self, record: LayerRecord) -> Ranker:
        stored, ordered = _read(self.path, record)
        support = _checked(self.path, stored, record)
        return NativeRanker(support) if ordered else SetRanker(support)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """nan: a file does not say what its maker read."""
        return Cost(bytes_read=float("nan"), multiply_adds=float("nan"))


class SetRanker(NativeRanker):
    """Hands out a selection that has no order: all of it, since its first places mean nothing."""

    def top(self, budget: int) -> Support:
        stored = self.support.shape[-1]
        if budget < stored:
            raise InputError(
                f"budget {budget} is under the {stored} positions that were recorded per query, "
                f"which are in no order: score them with --budget {stored}, or import them with "
                "--ordered if the best comes first"
            )
        return super().top(budget)


def _read(path: Path, record: LayerRecord) -> tuple[Tensor, bool]:
    """The stored tensor, and whether its best key comes first."""
    if not path.is_file():
        raise InputError(f"recorded selection {str(path)!r}: there is no such file")
    if path.suffix == ".npy":
        return _read_npy(path), True
    if path.suffix == ".safetensors":
        return _read_safetensors(path, record)
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


def _read_safetensors(path: Path, record: LayerRecord) -> tuple[Tensor, bool]:
    name = f"layer.{record.layer}"
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            facts = (file.metadata() or {}).get("selection")
            if any(each.startswith(f"{name}.") for each in names):
                name = f"{name}.{fingerprint(record.queries, record.positions)}"
            if name in names:
                stored: Tensor = file.get_tensor(name)
                return stored, facts is None or bool(json.loads(facts).get("ordered"))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"recorded selection {str(path)!r} is no whole .safetensors: {error}"
        ) from error
    if name.count(".") == 2:
        raise InputError(
            f"recorded selection {str(path)!r} holds none for these queries of layer "
            f"{record.layer}: it was imported for another capture; import it again for this one"
        )
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
