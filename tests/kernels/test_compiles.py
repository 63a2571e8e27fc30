"""The kernels compile for Hopper: no GPU is needed for that, only Triton's own tools.

They must use its matrix instruction, keep their reductions inside threads, and fit the 227 KiB of
shared memory that a block may have; a launch on the GPU fails where they do not.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
CODE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from indexer_kernels.attention_statistics import statistics_kernel
from indexer_kernels.exact_topk import scoring_kernel
from indexer_kernels.headsum_topk import headsum_kernel

POINTERS = dict(queries="*bf16", keys="*bf16", positions="*i32", words="*i32",
                tops="*i32", scale="fp32")
EVEN = {"rows", "count", "batch_stride", "key_stride"}


def build(kernel, constants, pointers, absent, warps=8, stages=3, **others):
    types, values, facts = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants or name in absent:
            types[name], values[(place,)] = "constexpr", constants.get(name)
        else:
            types[name] = (POINTERS | others).get(name, "*fp32" if name in pointers else "i32")
            if types[name].startswith("*") or name in EVEN:
                facts[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, types, values, facts)
    options = {"num_warps": warps, "num_stages": stages}
    made = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = made.asm["ptx"]
    print(made.metadata.shared, ptx.count("wgmma.mma_async"), ptx.count("shfl"))


tile = dict(chunk=128, block_m=128, block_n=128, window=0, group=16, direct=True)
build(scoring_kernel, dict(tile, dim=128, causal=False, mode="maxima"),
      {"maxima"}, {"bounds", "words", "scores", "positions"})
build(scoring_kernel, dict(tile, dim=128, causal=True, mode="gate"),
      {"bounds", "scores"}, {"maxima"})
build(scoring_kernel, dict(tile, dim=576, chunk=64, causal=True, mode="maxima"),
      {"maxima"}, {"bounds", "words", "scores"})
del tile["group"], tile["direct"]
build(headsum_kernel, dict(tile, dim=192, rest=64, causal=True), {"lse", "sums"}, set(), stages=2)
tile.update(edge=True, causal=True, scaled=True, full=True, top1=True)
parts = {"maxima", "sums", "moments"}
build(statistics_kernel, dict(tile, dim=128, rest=0), parts, set(), stages=2)
tile.update(scaled=False, full=False, top1=False, block_m=256)
build(statistics_kernel, dict(tile, dim=192, rest=64), parts, {"moments", "tops"}, 16, 2)
"""


SEARCHES = """
from indexer_kernels.selection import bound_kernel, compact_masks_kernel, cut_kernel

span = dict(block_m=128, block_n=128, window=0, causal=True)
for many in (False, True):
    build(bound_kernel, dict(span, group=16, block=8192, whole=True, many=many), {"maxima", "bounds"}, set(),
          keys="i32")
    for kth_only in (False, True):
        build(cut_kernel, dict(block=4096, kth_only=kth_only, many=many),
              {"values"}, set(), candidates="*i64", counts="*i32", chosen="*i64")
build(compact_masks_kernel, dict(span, block=256), {"scores"}, set(),
      candidates="*i64", counts="*i32", keys="i32")
"""


def test_scoring_kernels_fit_hopper(tmp_path):
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    program = f"import sys\nsys.path[:0] = {[str(KERNELS), *sys.path]!r}\n{CODE}{SEARCHES}"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    built = [[int(number) for number in line.split()] for line in done.stdout.splitlines()]
    assert len(built) == 13, done.stderr[-2000:]
    assert all(shared <= 227 * 1024 for shared, _, _ in built)
    for _, wgmma, shuffles in built[:6]:
        assert wgmma > 0
        assert shuffles <= 24  # a span's few, none for each of the tile's elements
