"""lightning_topk, fp8 and bf16, against DeepGEMM's scores where it is installed; row_topk alone.

python benchmarks/kernels/lightning_topk.py
python benchmarks/kernels/lightning_topk.py --variants     and other cuts of the scoring pass
"""

from __future__ import annotations

from dataclasses import replace

import torch
from harness import Table, need_gpu, variants_asked
from torch import Tensor

from indexer_kernels.lightning_topk import FP8, IndexScoring, IndexShape, lightning_topk
from indexer_kernels.row_select import group_of
from indexer_kernels.row_topk import row_maxima, row_topk, select_rows

HEADS, ROWS, UNITS, DIM, K = 64, 8192, 131072, 128, 2048
CASE = "64 heads x 128, 8192 x 131072"
SOME = slice(0, 1024)
SHAPES = (
    IndexShape(128, 256, warps=8, stages=3), IndexShape(64, 256, warps=4, stages=2),
    IndexShape(64, 256, warps=4, stages=4), IndexShape(128, 128, warps=8, stages=3),
    IndexShape(64, 128, warps=4, stages=4), IndexShape(128, 128, warps=4, stages=3),
)  # fmt: skip


def scored(table: Table, queries: Tensor, keys: Tensor, weights: Tensor, scales: Tensor) -> None:
    """The whole, its two parts, and with --variants the scoring cut otherwise."""
    fp8 = queries.dtype == FP8
    name = "fp8" if fp8 else "bf16"
    options = {"scale": DIM**-0.5, "key_scales": scales}
    table.add(f"{CASE}, {name}", "lightning_topk",
              lambda: lightning_topk(queries, keys, weights, K, ordered=False, **options),
              target=21.0 if fp8 else None, predicted="17-21" if fp8 else "26-32")  # fmt: skip
    swapped = queries.transpose(0, 1).contiguous()
    scoring = IndexScoring(swapped, keys, weights, DIM**-0.5, scales, True, None, None, False)
    table.add(f"1024 of its rows, {name}", "scores and maxima",
              lambda: scoring.with_maxima(SOME), predicted="1.9-2.4" if fp8 else "")  # fmt: skip
    if variants_asked():
        for shape in SHAPES:
            cut = replace(scoring, shape=shape)
            how = f"{shape.units} x {shape.columns}, {shape.warps} warps, {shape.stages} stages"
            table.add(f"1024 of its rows, {name}", f"scores, {how}",
                      lambda c=cut: c.with_maxima(SOME))  # fmt: skip


def selected(table: Table) -> None:
    """Stored scores: the whole, its two launches, torch."""
    scores, case = torch.randn(1024, UNITS, device="cuda"), "1024 x 131072 float32"
    group = group_of(UNITS)
    maxima = row_maxima(scores, group)
    values = torch.empty(1024, K, device="cuda")
    chosen = torch.empty(1024, K, dtype=torch.int64, device="cuda")
    table.add(case, "row_topk", lambda: row_topk(scores, K, ordered=False), predicted="0.35-0.6")
    table.add(case, "group maxima", lambda: row_maxima(scores, group), predicted="0.15")
    table.add(case, "selection, maxima given",
              lambda: select_rows(scores, maxima, group, K, values=values, chosen=chosen),
              predicted="0.2-0.4")  # fmt: skip
    table.add(case, "torch.topk", lambda: scores.topk(K))


def main() -> None:
    need_gpu()
    table = Table("lightning_topk")
    torch.manual_seed(0)
    plain = torch.randn(HEADS, ROWS, DIM, device="cuda")
    wide = torch.randn(UNITS, DIM, device="cuda")
    weights = torch.randn(ROWS, HEADS, device="cuda")
    scales = torch.rand(UNITS, device="cuda") + 0.5
    for dtype in (FP8, torch.bfloat16):
        scored(table, plain.to(dtype), wide.to(dtype), weights, scales)
    selected(table)
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
