"""The dispatch, and an import that needs neither triton nor a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from indexer_kernels import backend
from indexer_kernels.topk import KernelError

KERNELS = Path(__file__).parents[2] / "kernels"


def test_cpu_tensors_take_torch_unless_forced():
    x = torch.zeros(1)
    assert not backend.use_triton(None, x)
    assert not backend.use_triton("torch", x)


def test_several_devices_are_named():
    with pytest.raises(KernelError, match="cpu, meta"):
        backend.use_triton(None, torch.zeros(1), torch.zeros(1, device="meta"))


def test_a_forced_backend_that_cannot_run_fails(monkeypatch):
    monkeypatch.setattr(backend, "INTERPRETED", False)
    with pytest.raises(KernelError, match="cannot run on cpu"):
        backend.use_triton("triton", torch.zeros(1))
    monkeypatch.setattr(backend, "triton", None)
    with pytest.raises(KernelError, match="not installed"):
        backend.use_triton("triton", torch.zeros(1))


def test_every_module_works_on_cpu_where_triton_is_absent():
    modules = sorted(path.stem for path in (KERNELS / "indexer_kernels").glob("*.py"))
    code = f"""
import sys
sys.modules["triton"] = None  # an import of it now fails
from importlib import import_module
for name in {modules!r}:
    import_module(f"indexer_kernels.{{name}}".removesuffix(".__init__"))
import torch
from indexer_kernels.exact_topk import exact_topk
print(exact_topk(torch.ones(1, 1, 1), torch.arange(3.0)[None, :, None], 2)[1].tolist())
"""
    path = [str(KERNELS), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "[[[2, 1]]]", done.stderr
