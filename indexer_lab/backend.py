"""Who computes: Triton kernels or plain torch. Everything here that can do both asks this file.

Nothing of triton is imported before kernels are to run, so a run on a CPU starts as fast without.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

import torch

from indexer_kernels.topk import KernelError
from indexer_lab.errors import InputError, unknown_name
from indexer_probes.records import LayerRecord

if TYPE_CHECKING:
    from indexer_lab.kernel_record import KernelRecord

Backend = Literal["auto", "triton", "torch"]
BACKENDS = ("auto", "triton", "torch")
MOST_KEYS = 8192
"""Keys that a kernel can pick for one query."""


def use_kernels(backend: Backend, device: torch.device, obstacle: str | None = None) -> bool:
    """Whether Triton kernels answer for tensors on this device.

    backend:  "triton" or "torch" forces one; "auto" takes kernels for CUDA tensors where triton is
              installed, and torch for the rest.
    obstacle: why no kernel covers the case, None where one does: "auto" then stays with torch.
    Raises InputError where "triton" is forced and cannot run, for whatever reason.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if backend == "torch" or (backend == "auto" and (device.type != "cuda" or obstacle)):
        return False
    if obstacle:
        raise InputError(
            f"backend 'triton' cannot run: {obstacle}; use backend 'auto' or 'torch' instead"
        )
    return _runs(backend, device)


def too_many(budget: int, keys: int) -> str | None:
    """The obstacle of a budget over what a kernel can pick; no row picks more than its keys."""
    if min(budget, keys) <= MOST_KEYS:
        return None
    return f"{min(budget, keys)} keys a query are over the {MOST_KEYS} that a kernel can pick"


def kernel_record(record: LayerRecord, backend: Backend, budget: int) -> KernelRecord | None:
    """The record for kernels that pick this many keys, None where torch is to compute.

    Raises InputError as `use_kernels` does.
    """
    obstacle = _without_keys(record) or too_many(budget, record.length)
    if not use_kernels(backend, record.queries.device, obstacle):
        return None
    from indexer_lab.kernel_record import KernelRecord

    return KernelRecord(record)


def _without_keys(record: LayerRecord) -> str | None:
    """The obstacle of keys that are not one a token, None where they are."""
    from indexer_lab.unit_level import UnitRecord

    if record.entries is None and not isinstance(record, UnitRecord):
        return None
    return f"layer {record.layer} is ranked by units or compressed entries, which no kernel reads"


def device_named(text: str) -> torch.device:
    """The device of `cpu`, `cuda`, `cuda:N` or `auto` (CUDA where there is one).

    Raises InputError for another name and for a device that is not there.
    """
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    if text.partition(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"--device {text!r}: expected cpu, cuda, cuda:N or auto")
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"--device {text!r} cannot be used ({reason}); use cpu or auto") from error


def working_on(device: torch.device) -> AbstractContextManager[object]:
    """Inside, this is the CUDA device that kernels are launched on; on a CPU it does nothing."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _runs(backend: Backend, device: torch.device) -> bool:
    from indexer_kernels.backend import use_triton

    try:
        forced = "triton" if backend == "triton" else None
        return use_triton(forced, torch.empty(0, device=device))
    except KernelError as error:
        raise InputError(
            f"{error}; put the tensors on a GPU (score --device cuda), or use backend 'torch'"
        ) from error
