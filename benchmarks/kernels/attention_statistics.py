"""attention_statistics against torch on stored logits.

python benchmarks/kernels/attention_statistics.py
"""

from __future__ import annotations

import torch
from harness import Table, need_gpu, variants_asked

from indexer_kernels.attention_statistics import (
    SHARES,
    StatisticsShape,
    attention_statistics,
    log_sum_exp,
    streamed,
)
from indexer_kernels.operands import as_rows

CASE = "8192 x 131072, d 128"
SCALE = 128**-0.5
SHAPES = {  # other cuts of the same pass
    "128 rows x 64 keys, 2 stages": StatisticsShape(
        128, 128, 0, warps=8, stages=2, resident=3, block_n=64
    ),
    "128 rows, 3 stages": StatisticsShape(128, 128, 0, warps=8, stages=3, resident=1),
    "256 rows, 2 stages": StatisticsShape(256, 128, 0, warps=16, stages=2, resident=1),
    "256 rows, 3 stages": StatisticsShape(256, 128, 0, warps=16, stages=3, resident=1),
}


def torch_statistics(queries: torch.Tensor, keys: torch.Tensor) -> None:
    """Log-sum-exp and entropy from stored float32 logits, 2048 rows at a time."""
    for rows in queries[0].split(2048):
        logits = torch.mm(rows, keys[0].T, out_dtype=torch.float32).mul_(SCALE)
        lse = logits.logsumexp(-1)
        p = (logits - lse[:, None]).exp_()
        lse - (p * logits).sum(-1)


def main() -> None:
    need_gpu()
    table = Table("attention_statistics")
    torch.manual_seed(0)
    shape = {"dtype": torch.bfloat16, "device": "cuda"}
    queries = torch.randn(1, 8192, 128, **shape)
    keys = torch.randn(1, 131072, 128, **shape)
    support = torch.rand(8192, 131072 // 16, device="cuda").topk(2048).indices[None] * 16
    rows = as_rows(queries, keys, SCALE, None, None)
    table.add(CASE, "log-sum-exp", lambda: log_sum_exp(rows))
    table.add(CASE, "log-sum-exp and entropy", lambda: streamed(rows, top1=False), target=0.9)
    table.add(CASE, "and top-1", lambda: streamed(rows))
    table.add(CASE, "log-sum-exp, entropy, mass of 2048 keys",
              lambda: attention_statistics(queries, keys, scale=SCALE, support=support, top1=False),
              target=2.0)  # fmt: skip
    for name, cut in SHAPES.items() if variants_asked() else ():
        table.add(CASE, f"log-sum-exp and entropy, {name}",
                  lambda cut=cut: streamed(rows, top1=False, shape=cut))  # fmt: skip
    some = queries[:, :512]
    table.add("512 x 131072, d 128", "and keys for 90/95/99 %",
              lambda: attention_statistics(some, keys, scale=SCALE, shares=SHARES))  # fmt: skip
    table.add(CASE, "torch, log-sum-exp and entropy", lambda: torch_statistics(queries, keys))
    table.write()


if __name__ == "__main__":
    main()
