"""sparse_attention on latents and on grouped heads.

python benchmarks/kernels/sparse_attention.py
"""

from __future__ import annotations

import torch
from harness import Table, need_gpu

from indexer_kernels.sparse_attention import (
    sparse_attention,
    sparse_attention_reference,
    sparse_latent_attention,
)

ROWS, KEYS, K = 8192, 131072, 2048
SHAPE = {"dtype": torch.bfloat16, "device": "cuda"}


def latent(table: Table, support: torch.Tensor) -> None:
    queries, rope = torch.randn(128, ROWS, 512, **SHAPE), torch.randn(128, ROWS, 64, **SHAPE)
    latents, rope_keys = torch.randn(KEYS, 512, **SHAPE), torch.randn(KEYS, 64, **SHAPE)
    table.add(
        "MLA, 128 heads, 8192 queries, k 2048",
        "sparse_latent_attention",
        lambda: sparse_latent_attention(queries, rope, latents, rope_keys, support, scale=0.04),
        target=12,
    )


def grouped(table: Table, support: torch.Tensor) -> None:
    queries = torch.randn(32, ROWS, 128, **SHAPE)
    keys, values = torch.randn(4, KEYS, 128, **SHAPE), torch.randn(4, KEYS, 128, **SHAPE)
    table.add(
        "GQA 32:4, d 128, 8192 queries, k 2048",
        "sparse_attention",
        lambda: sparse_attention(queries, keys, values, support, scale=0.09),
    )
    few, picked = queries[:, :64].contiguous(), support[:, :64].contiguous()
    table.add(
        "the same, 64 of the queries",
        "torch, gathered",
        lambda: sparse_attention_reference(few, keys, values, picked, scale=0.09),
    )


def main() -> None:
    need_gpu()
    table = Table("sparse_attention")
    torch.manual_seed(0)
    # distinct positions without a [row, key] permutation: a stride walk from a random start
    start = torch.randint(0, KEYS, (ROWS, 1), device="cuda")
    support = ((start + torch.arange(K, device="cuda") * 61) % KEYS)[None].contiguous()
    latent(table, support)
    grouped(table, support)
    table.write()


if __name__ == "__main__":
    main()
