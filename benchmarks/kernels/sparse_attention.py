"""sparse_attention on latents and on grouped heads.

python benchmarks/kernels/sparse_attention.py
python benchmarks/kernels/sparse_attention.py --variants     and other cuts
"""

from __future__ import annotations

import torch
from harness import Table, need_gpu, variants_asked

from indexer_kernels.sparse_attention import (
    SparseShape,
    launched,
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
        predicted="15-20",
    )
    if variants_asked():
        for keys, stages in ((64, 2), (32, 3), (16, 3), (16, 4)):
            shape = SparseShape(64, keys, warps=8, stages=stages)
            table.add("MLA, the same", f"{keys} keys, {stages} stages",
                      lambda s=shape: launched(queries, rope, latents[None], rope_keys,
                                               latents[None], support, 0.04, s))  # fmt: skip


def grouped(table: Table, support: torch.Tensor) -> None:
    queries = torch.randn(32, ROWS, 128, **SHAPE)
    keys, values = torch.randn(4, KEYS, 128, **SHAPE), torch.randn(4, KEYS, 128, **SHAPE)
    table.add(
        "GQA 32:4, d 128, 8192 queries, k 2048",
        "sparse_attention",
        lambda: sparse_attention(queries, keys, values, support, scale=0.09),
        predicted="3-5",
    )
    if variants_asked():
        for place, stages, warps in ((32, 3, 4), (64, 3, 4), (64, 2, 2), (128, 2, 4)):
            shape = SparseShape(16, place, warps, stages)
            table.add("GQA, the same", f"{place} keys, {stages} stages, {warps} warps",
                      lambda s=shape: launched(queries, None, keys, None, values, support, 0.09,
                                               s))  # fmt: skip
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
