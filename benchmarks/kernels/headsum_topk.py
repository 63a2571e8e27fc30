"""headsum_topk at DeepSeek's shape, and its parts.

python benchmarks/kernels/headsum_topk.py
python benchmarks/kernels/headsum_topk.py --variants     and other cuts of the first pass
"""

from __future__ import annotations

import torch
from harness import Table, need_gpu, variants_asked

from indexer_kernels.headsum_topk import headsum_topk, headsum_topk_reference, headsums
from indexer_kernels.operands import as_rows
from indexer_kernels.streaming import StatisticsShape, log_sum_exp

CASE = "128 heads, d 192, 8192 x 131072"
SCALE = 192**-0.5
SHAPES = {  # other cuts of the first pass
    "128 rows": StatisticsShape(128, 128, 64, warps=8, stages=2, resident=1),
    "128 rows x 64 keys, two blocks": StatisticsShape(
        128, 128, 64, warps=8, stages=2, resident=2, block_n=64
    ),
    "128 rows x 64 keys, 4 warps, two blocks": StatisticsShape(
        128, 128, 64, warps=4, stages=2, resident=2, block_n=64
    ),
}


def main() -> None:
    need_gpu()
    table = Table("headsum_topk")
    torch.manual_seed(0)
    shape = {"dtype": torch.bfloat16, "device": "cuda"}
    queries = torch.randn(128, 8192, 192, **shape)
    keys = torch.randn(128, 131072, 192, **shape)
    table.add(CASE, "headsum_topk",
              lambda: headsum_topk(queries, keys, 2048, scale=SCALE, ordered=False),
              target=200, predicted="255-262")  # fmt: skip
    rows = as_rows(queries, keys, SCALE, None, None)
    lse = log_sum_exp(rows)
    table.add(CASE, "log-sum-exp pass", lambda: log_sum_exp(rows))
    if variants_asked():
        for name, shape in SHAPES.items():
            predicted = "85-100" if shape.block_n == 64 else ""
            table.add(CASE, f"log-sum-exp pass, {name}", lambda s=shape: log_sum_exp(rows, s),
                      predicted=predicted)  # fmt: skip
    table.add("the same, 1024 of the rows", "sum pass",
              lambda: headsums(rows, lse, 128, slice(0, 1024)), predicted="18")  # fmt: skip
    few = queries[:, :64]
    table.add("the same, 64 of the rows", "torch, chunked",
              lambda: headsum_topk_reference(few, keys, 2048, scale=SCALE))  # fmt: skip
    table.write()


if __name__ == "__main__":
    main()
