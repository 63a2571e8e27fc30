"""exact_topk, exact_support and kth_logit against torch, faiss and vLLM, then where the time goes.

python benchmarks/kernels/exact_topk.py
python benchmarks/kernels/exact_topk.py --variants     and the other designs and cuts
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from harness import Table, captured, need_gpu, variants_asked
from torch import Tensor

from indexer_kernels import bound, harvest, scoring, stored
from indexer_kernels.deciding import answer
from indexer_kernels.exact_topk import Tally, exact_support, exact_topk, rows_topk
from indexer_kernels.kth_logit import kth_logit
from indexer_kernels.margin import key_norms
from indexer_kernels.operands import Rows, as_rows
from indexer_kernels.sample import sampled_bounds
from indexer_kernels.written import logits_at

K = 2048
PREFILL, WIDE = "prefill 8192 x 131072, d 128", "prefill 8192 x 131072, d 576"
CASES = (  # name, queries, keys, dim, target in ms, predictions: values, support, k-th, graph
    (PREFILL, 8192, 131072, 128, 1.3, ("2.1-2.6", "1.4-1.9", "1.3-1.8", "")),
    (WIDE, 8192, 131072, 576, None, ("8-10", "4-6", "4-6", "")),
    ("decode 64 x 131072, d 128", 64, 131072, 128, 0.05, ("0.2", "0.15", "0.15", "0.05-0.07")),
    ("decode 64 x 1048576, d 128", 64, 1048576, 128, None, ("0.4", "0.4", "0.4", "0.25-0.35")),
    ("decode 1 x 131072, d 128", 1, 131072, 128, 0.03, ("0.2", "0.15", "0.15", "0.04-0.05")),
)  # fmt: skip
CAUSAL = "causal prompt 32768 x 32768, d 128"


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


def vllm_topk(queries: Tensor, keys: Tensor, k: int) -> Callable[[], object]:
    """A bf16 matmul and vLLM's row selection for prefill, which does not look beyond its bins."""
    import vllm._custom_ops  # noqa: F401  it loads the operators

    select = torch.ops._C.top_k_per_row_prefill

    def work() -> None:
        for rows in queries[0].split(2048):
            scores = (rows @ keys[0].T).float()
            starts = torch.zeros(len(rows), dtype=torch.int32, device="cuda")
            ends = torch.full_like(starts, len(keys[0]))
            chosen = torch.empty(len(rows), k, dtype=torch.int32, device="cuda")
            select(scores, starts, ends, chosen, len(rows), *scores.stride(), k)

    return work


def peers(table: Table, name: str, queries: Tensor, keys: Tensor, cold: bool) -> None:
    table.add(name, "torch matmul + topk", torch_topk(queries, keys, K), cold=cold)
    for who, made in (("faiss knn_gpu", faiss_topk), ("vLLM select + matmul", vllm_topk)):
        try:
            table.add(name, who, made(queries, keys, K), cold=cold)
        except (ImportError, AttributeError) as error:
            print(f"  {who} is not installed ({error})", flush=True)


def compare(table: Table) -> None:
    for name, count, keys_count, dim, target, (values, support, kth, graph) in CASES:
        queries, keys = operands(count, keys_count, dim)
        cold = count <= 64
        tally = Tally()
        exact_topk(queries, keys, K, ordered=False, tally=tally)
        note = f"repaired {tally.repaired} of {tally.rows}"
        table.add(name, "exact_topk", lambda q=queries, s=keys: exact_topk(q, s, K, ordered=False),
                  target=target, predicted=values, cold=cold, note=note)  # fmt: skip
        table.add(name, "exact_topk, ordered", lambda q=queries, s=keys: exact_topk(q, s, K),
                  cold=cold)  # fmt: skip
        table.add(name, "exact_support", lambda q=queries, s=keys: exact_support(q, s, K),
                  predicted=support, cold=cold)  # fmt: skip
        table.add(name, "kth_logit", lambda q=queries, s=keys: kth_logit(q, s, K), predicted=kth,
                  cold=cold)  # fmt: skip
        if cold:
            work = captured(lambda q=queries, s=keys: exact_topk(q, s, K, ordered=False))
            table.add(name, "exact_topk, CUDA graph", work, target=target, predicted=graph,
                      cold=True, note="NaN not refused")  # fmt: skip
            work = captured(lambda q=queries, s=keys: exact_support(q, s, K))
            table.add(name, "exact_support, CUDA graph", work, cold=True)
        peers(table, name, queries, keys, cold)


def causal(table: Table) -> None:
    """Rows of every length: those that see few keys once were repaired, all of them."""
    queries, keys = operands(32768, 32768, 128)
    positions = torch.arange(32768, device="cuda")
    tally = Tally()
    exact_support(queries, keys, K, positions=positions, tally=tally)
    table.add(CAUSAL, "exact_support",
              lambda: exact_support(queries, keys, K, positions=positions),
              predicted="3-5", note=f"repaired {tally.repaired} of {tally.rows}")  # fmt: skip


class Buffers:
    """Outputs of one problem, made once."""

    def __init__(self, rows: Rows):
        shape = (*rows.shape[:2], K)
        self.chosen = torch.empty(shape, dtype=torch.int64, device="cuda")
        self.values = torch.empty(shape, dtype=torch.float32, device="cuda")
        self.failed = torch.zeros(shape[:2], dtype=torch.int8, device="cuda")


def stages(table: Table) -> None:
    """Each kernel of the harvested design alone, at the prefill shape."""
    rows = as_rows(*operands(8192, 131072, 128), 1.0, None, None)
    out = Buffers(rows)
    bounds, squares = sampled_bounds(rows, K), key_norms(rows)
    found = harvest.harvest(rows, K, bounds)
    harvest.settled(rows, K, found, squares, out.chosen, None, out.failed)
    pairs = found.counts.sum(1).float()
    note = (
        f"pairs a row: {pairs.mean():.0f}, most {pairs.max():.0f}; in a list {found.counts.max()}"
    )
    table.add("stage", "sampled bounds", lambda: sampled_bounds(rows, K), predicted="0.15-0.2")
    table.add("stage", "norms", lambda: key_norms(rows), predicted="0.02")
    table.add("stage", "harvest", lambda: harvest.harvest(rows, K, bounds), predicted="0.65-0.9",
              note=note)  # fmt: skip
    table.add("stage", "settle",
              lambda: harvest.settled(rows, K, found, squares, out.chosen, None, out.failed),
              predicted="0.3-0.5")  # fmt: skip
    table.add("stage", "values", lambda: logits_at(rows, out.chosen, out.values),
              predicted="0.7")  # fmt: skip


def settling_variants(table: Table) -> None:
    rows = as_rows(*operands(8192, 131072, 128), 1.0, None, None)
    out, squares = Buffers(rows), key_norms(rows)
    found = harvest.harvest(rows, K, sampled_bounds(rows, K))
    before = harvest.WARPS, harvest.REST, harvest.SETTLED
    for warps, rest, settled in (
        (4, 1024, 8192), (8, 1024, 8192), (16, 1024, 8192), (8, 2048, 8192), (8, 1024, 4096),
        (16, 2048, 8192),
    ):  # fmt: skip
        harvest.WARPS, harvest.REST, harvest.SETTLED = warps, rest, settled
        table.add(
            "variant", f"settle, {warps} warps, {settled} kept, {rest} at once",
            lambda: harvest.settled(rows, K, found, squares, out.chosen, None, out.failed),
        )  # fmt: skip
    harvest.WARPS, harvest.REST, harvest.SETTLED = before


def harvest_variants(table: Table) -> None:
    for dim, cuts in (
        (128, ((128, 128, 8, 2), (128, 128, 8, 3), (128, 128, 8, 4), (64, 128, 4, 2),
               (64, 128, 4, 3), (256, 128, 16, 2))),
        (576, ((128, 64, 8, 3), (128, 64, 8, 4), (256, 64, 16, 3), (256, 64, 16, 4))),
    ):  # fmt: skip
        rows = as_rows(*operands(8192, 131072, dim), 1.0, None, None)
        bounds = sampled_bounds(rows, K)
        for block_m, chunk, warps, depth in cuts:
            shape = scoring.TileShape(block_m, chunk, warps, depth)
            how = f"harvest, {block_m} rows, {warps} warps, {depth} stages"
            table.add(f"variant, d {dim}", how,
                      lambda s=shape, r=rows, b=bounds: harvest.harvest(r, K, b, s))  # fmt: skip
        groups = torch.empty(1, 8192, 131072 // 16, device="cuda")
        table.add(
            f"variant, d {dim}", "maxima of all keys, for the proven bound",
            lambda r=rows, g=groups: scoring.score(r, "maxima", maxima=g, group=16),
        )  # fmt: skip
        table.add(f"variant, d {dim}", "proven bound", lambda r=rows: bound.group_bounds(r, K, 16))


def design_variants(table: Table) -> None:
    """The landed design and its sampled gate beside the new one, values included."""
    for dim, predictions in ((128, ("1.9-2.6", "3.6", "2.8")), (576, ("8-10", "13.7", "10-11"))):
        rows = as_rows(*operands(8192, 131072, dim), 1.0, None, None)
        for design, predicted in zip(
            ("harvested", "certified", "sampled bits"), predictions, strict=True
        ):
            tally = Tally()
            rows_topk(rows, K, tally=tally, design=design)
            table.add(f"variant, d {dim}", f"exact_topk, {design}",
                      lambda r=rows, d=design: rows_topk(r, K, design=d), predicted=predicted,
                      note=f"repaired {tally.repaired} of {tally.rows}")  # fmt: skip
    rows = as_rows(*operands(512, 131072, 128), 1.0, None, None)
    out = Buffers(rows)
    for design in ("stored", "harvested"):
        table.add("variant, 512 rows", f"exact_support, {design}",
                  lambda d=design: answer(rows, K, out.chosen, None, design=d))  # fmt: skip


def decode_variants(table: Table) -> None:
    """How the one pass over the keys is cut up; the selection is the same."""
    before = scoring.PROGRAMS
    for count in (64, 1):
        rows = as_rows(*operands(count, 131072, 128), 1.0, None, None)
        out = Buffers(rows)
        for programs, depth in ((2, 3), (4, 3), (8, 2), (4, 4)):
            scoring.PROGRAMS = programs
            shape = replace(scoring.tile_shape(rows), stages=depth)
            work = captured(
                lambda r=rows, o=out, s=shape: stored.stored(r, K, o.chosen, None, o.failed, s)
            )
            table.add(f"variant, {count} x 131072", f"graph, {programs} programs, {depth} stages",
                      work, cold=True)  # fmt: skip
    scoring.PROGRAMS = before


def main() -> None:
    need_gpu()
    table = Table("exact_topk")
    compare(table)
    causal(table)
    stages(table)
    if variants_asked():
        design_variants(table)
        harvest_variants(table)
        settling_variants(table)
        decode_variants(table)
    table.write()


if __name__ == "__main__":
    main()
