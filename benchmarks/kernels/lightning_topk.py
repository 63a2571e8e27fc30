"""lightning_topk, fp8 and bf16, against DeepGEMM's scores where it is installed.

python benchmarks/kernels/lightning_topk.py
"""

from __future__ import annotations

import torch
from harness import Table, need_gpu

from indexer_kernels.lightning_topk import FP8, lightning_scores, lightning_topk
from indexer_kernels.row_topk import row_topk

HEADS, ROWS, UNITS, DIM, K = 64, 8192, 131072, 128, 2048
CASE = "64 heads x 128, 8192 x 131072"


def main() -> None:
    need_gpu()
    table = Table("lightning_topk")
    torch.manual_seed(0)
    plain = torch.randn(HEADS, ROWS, DIM, device="cuda")
    wide = torch.randn(UNITS, DIM, device="cuda")
    weights = torch.randn(ROWS, HEADS, device="cuda")
    scales = torch.rand(UNITS, device="cuda") + 0.5
    options = {"scale": DIM**-0.5, "key_scales": scales}
    for dtype, target in ((FP8, 21.0), (torch.bfloat16, None)):
        queries, keys = plain.to(dtype), wide.to(dtype)
        name = "fp8" if dtype == FP8 else "bf16"
        table.add(f"{CASE}, {name}", "lightning_topk",
                  lambda q=queries, s=keys: lightning_topk(
                      q, s, weights, K, ordered=False, **options),
                  target=target)  # fmt: skip
        swapped = queries.transpose(0, 1).contiguous()
        table.add(f"1024 of its rows, {name}", "scores alone",
                  lambda q=swapped, s=keys: lightning_scores(
                      q, s, weights, slice(0, 1024), scale=DIM**-0.5, key_scales=scales,
                      relu=True, positions=None, window=None, precise=False))  # fmt: skip
    scores = torch.randn(1024, UNITS, device="cuda")
    table.add("1024 x 131072 float32", "row_topk", lambda: row_topk(scores, K, ordered=False))
    table.add("1024 x 131072 float32", "torch.topk", lambda: scores.topk(K))
    try:
        import deep_gemm
    except ImportError:
        print("  deep_gemm is not installed", flush=True)
    else:
        queries, keys = plain.transpose(0, 1).contiguous().to(FP8), wide.to(FP8)
        starts = torch.zeros(ROWS, dtype=torch.int32, device="cuda")
        ends = torch.full_like(starts, UNITS)
        table.add(f"{CASE}, fp8", "DeepGEMM, scores alone",
                  lambda: deep_gemm.fp8_mqa_logits(
                      queries, (keys, scales), weights, starts, ends))  # fmt: skip
    table.write()


if __name__ == "__main__":
    main()
