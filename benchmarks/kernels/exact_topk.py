"""exact_topk and kth_logit against torch and faiss, then where the time goes.

python benchmarks/kernels/exact_topk.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from harness import Table, captured, need_gpu
from torch import Tensor

import indexer_kernels.exact_topk as module
from indexer_kernels import selection
from indexer_kernels.exact_topk import Tally, candidates, exact_topk
from indexer_kernels.kth_logit import kth_logit
from indexer_kernels.operands import as_rows
from indexer_kernels.tiles import BLOCK_N

K = 2048
CASES = (  # name, queries, keys, dim, target in ms
    ("prefill 8192 x 131072, d 128", 8192, 131072, 128, 1.3),
    ("prefill 8192 x 131072, d 576", 8192, 131072, 576, None),
    ("decode 64 x 131072, d 128", 64, 131072, 128, 0.05),
    ("decode 64 x 1048576, d 128", 64, 1048576, 128, None),
    ("decode 1 x 131072, d 128", 1, 131072, 128, 0.03),
)


def operands(queries: int, keys: int, dim: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    shape = {"dtype": torch.bfloat16, "device": "cuda"}
    return torch.randn(1, queries, dim, **shape), torch.randn(1, keys, dim, **shape)


def torch_topk(queries: Tensor, keys: Tensor, k: int) -> Callable[[], object]:
    """float32 scores in chunks of 2048 rows, then torch.topk."""

    def work() -> None:
        for rows in queries[0].split(2048):
            torch.mm(rows, keys[0].T, out_dtype=torch.float32).topk(k, dim=-1)

    return work


def faiss_topk(queries: Tensor, keys: Tensor, k: int) -> Callable[[], object]:
    """knn_gpu on the bfloat16 operands as they lie on the GPU."""
    import faiss
    import faiss.contrib.torch_utils

    resources = faiss.StandardGpuResources()
    return lambda: faiss.knn_gpu(
        resources, queries[0], keys[0], k, metric=faiss.METRIC_INNER_PRODUCT
    )


def compare(table: Table) -> None:
    for name, count, keys_count, dim, target in CASES:
        queries, keys = operands(count, keys_count, dim)
        cold = count <= 64
        tally = Tally()
        exact_topk(queries, keys, K, ordered=False, tally=tally)
        note = f"repaired {tally.repaired} of {tally.rows}"
        table.add(name, "exact_topk", lambda q=queries, s=keys: exact_topk(q, s, K, ordered=False),
                  target=target, cold=cold, note=note)  # fmt: skip
        table.add(name, "exact_topk, ordered", lambda q=queries, s=keys: exact_topk(q, s, K),
                  cold=cold)  # fmt: skip
        table.add(name, "kth_logit", lambda q=queries, s=keys: kth_logit(q, s, K), cold=cold)
        if cold:
            rows = as_rows(queries, keys, 1.0, None, None)
            graph = captured(lambda r=rows: selection.cut(candidates(r, K), K, 2 * K))
            table.add(name, "exact_topk, CUDA graph", graph, target=target, cold=True,
                      note="no NaN check, no repair")  # fmt: skip
        table.add(name, "torch matmul + topk", torch_topk(queries, keys, K), cold=cold)
        try:
            table.add(name, "faiss knn_gpu", faiss_topk(queries, keys, K), cold=cold)
        except (ImportError, AttributeError):
            print("  faiss-gpu is not installed", flush=True)


def stages(table: Table) -> None:
    """Each kernel alone, at the prefill shape: the gate for one chunk of keys in the middle."""
    rows = as_rows(*operands(8192, 131072, 128), 1.0, None, None)
    group = module.group_size(131072, K) or 1
    room = module.capacity(8192, 131072, K, module.WORKSPACE)
    width = module.key_chunk(8192, 131072, room, module.WORKSPACE)
    found = candidates(rows, K)
    on = {"device": "cuda"}
    maxima = torch.empty(1, 8192, 131072 // group, **on)
    words = torch.empty(8192 * width // 32, dtype=torch.int32, **on)
    scores = torch.empty(8192 * width, **on)
    chunk = (64, 64 + width // BLOCK_N)
    gate = {"bounds": found.bounds, "words": words, "scores": scores, "tiles": chunk}
    made = selection.empty_candidates(8192, room, found.bounds)
    counts = found.counts.float()
    table.add("stage", "certified bounds", lambda: module.certified_bounds(rows, K, group))
    table.add("stage", "maxima", lambda: module.score(rows, "maxima", maxima=maxima, group=group))
    part = f"stage, {width} of 131072 keys"
    table.add(part, "gate", lambda: module.score(rows, "gate", **gate))
    table.add(
        part,
        "gather",
        lambda: module.compact_masks_kernel[(8192,)](
            words,
            scores,
            None,
            made.packed,
            made.counts.zero_(),
            8192,
            131072,
            *chunk,
            room,
            block_m=128,
            block_n=BLOCK_N,
            block=256,
            window=0,
            causal=False,
            num_warps=4,
        ),
    )
    table.add("stage", "all candidates", lambda: candidates(rows, K))
    table.add("stage", "cut", lambda: selection.cut(found, K, 2 * K),
              note=f"candidates a row: {counts.mean():.0f}, most {counts.max():.0f}")  # fmt: skip
    original = module.tile_shape, module.PROGRAMS
    for programs, warps, depth in (
        (1, 8, 3),
        (2, 8, 3),
        (4, 8, 3),
        (8, 8, 3),
        (2, 8, 2),
        (2, 8, 4),
    ):
        module.PROGRAMS = programs
        module.tile_shape = lambda rows, w=warps, d=depth: replace(
            original[0](rows), warps=w, stages=d
        )
        how = f"{programs} programs, {warps} warps, {depth} stages"
        table.add(
            "stage", f"maxima, {how}",
            lambda: module.score(rows, "maxima", maxima=maxima, group=group),
        )  # fmt: skip
        table.add(part, f"gate, {how}", lambda: module.score(rows, "gate", **gate))
    module.tile_shape, module.PROGRAMS = original


def main() -> None:
    need_gpu()
    table = Table("exact_topk")
    compare(table)
    stages(table)
    table.write()


if __name__ == "__main__":
    main()
