"""Lightning Indexer scores, bfloat16 or fp8 e4m3, and their exact top-k.

score[t, s] = key_scale[s] * sum_j weight[t, j] * act(scale * q[t, j] . k[s])

Keys lie on the rows of a tile and (query, index head) pairs on its columns, so that the head sum
is almost wholly inside a thread.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import common_device, jit, operand, power_of_two, tl, use_triton
from indexer_kernels.exact_topk import Tally, stored_row_bytes
from indexer_kernels.operands import (
    DTYPES,
    REFERENCE_BYTES,
    WORKSPACE,
    check_k,
    check_positions,
    visible,
)
from indexer_kernels.row_topk import row_topk
from indexer_kernels.topk import HIDDEN, KernelError, topk

FP8 = torch.float8_e4m3fn
ACTIVATIONS = ("relu", "none")
COLUMNS = 256  # (query, head) pairs a tile


@jit
def lightning_kernel(
    queries, keys, weights, key_scales, positions, scores,
    start, lines, units, key_stride, scale, splits,
    heads: tl.constexpr, padded_heads: tl.constexpr, block_q: tl.constexpr,
    dim: tl.constexpr, chunk: tl.constexpr, block_u: tl.constexpr,
    relu: tl.constexpr, scaled: tl.constexpr, window: tl.constexpr, causal: tl.constexpr,
    precise: tl.constexpr,
):  # fmt: skip
    """Scores [line, unit] of query rows start.. ; grid (row blocks, splits). -inf where hidden.

    queries [query, head, dim], weights [query, head], both contiguous.
    """
    columns: tl.constexpr = block_q * padded_heads
    column = tl.arange(0, columns)
    head = column % padded_heads
    column_line = tl.program_id(0) * block_q + column // padded_heads
    live = (column_line < lines) & (head < heads)
    at = (start + column_line).to(tl.int64) * heads + head
    weight = tl.load(weights + at, mask=live, other=0.0)
    feature = tl.arange(0, chunk)
    query = tl.load(
        queries + at[None, :] * dim + feature[:, None],
        mask=live[None, :] & (feature < dim)[:, None], other=0.0,
    )  # fmt: skip
    line = tl.program_id(0) * block_q + tl.arange(0, block_q)
    row_seen = line < lines
    pos = line
    if causal:
        pos = tl.load(positions + start + line, mask=row_seen, other=0)
    share = tl.cdiv(tl.cdiv(units, block_u), splits)
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, tl.cdiv(units, block_u))
    for tile in range(first, last):
        unit = tile * block_u + tl.arange(0, block_u)
        key = tl.load(
            keys + unit[:, None].to(tl.int64) * key_stride + feature[None, :],
            mask=(unit < units)[:, None] & (feature < dim)[None, :], other=0.0,
        )  # fmt: skip
        if precise:
            acc = tl.dot(key, query, input_precision="ieee", max_num_imprecise_acc=0)
        else:
            acc = tl.dot(key, query, input_precision="ieee")
        acc = acc * scale
        if relu:
            acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
        weighed = tl.where(live[None, :], acc * weight[None, :], 0.0)
        score = tl.sum(tl.reshape(weighed, [block_u, block_q, padded_heads]), 2)
        if scaled:
            factor = tl.load(key_scales + unit, mask=unit < units, other=0.0)
            score = score * factor[:, None]
        shown = (unit < units)[:, None] & row_seen[None, :]
        seen = shown
        if causal:
            distance = pos[None, :] - unit[:, None]
            seen = seen & (distance >= 0)
            if window > 0:
                seen = seen & (distance < window)
        to = scores + line[None, :].to(tl.int64) * units + unit[:, None]
        tl.store(to, tl.where(seen, score, float("-inf")), mask=shown)


def lightning_topk(
    queries: Tensor,
    keys: Tensor,
    weights: Tensor,
    k: int,
    *,
    scale: float = 1.0,
    key_scales: Tensor | None = None,
    activation: str = "relu",
    positions: Tensor | None = None,
    window: int | None = None,
    ordered: bool = True,
    precise: bool = False,
    backend: str | None = None,
    workspace: int = WORKSPACE,
    tally: Tally | None = None,
) -> tuple[Tensor, Tensor]:
    """The k units of highest index score for each query row.

    queries:    bfloat16, float16, float32 or float8_e4m3fn [index_head, query, dim], dim <= 256.
    keys:       the same dtype, [unit, dim].
    weights:    float [query, index_head]; fold every factor outside the activation in, a query's
                fp8 scale too.
    scale:      factor inside the activation.
    key_scales: float [unit], each >= 0 (fp8 block scales of the keys); None for 1.
    activation: "relu" or "none".
    positions:  integer [query], the last unit that each query sees; None shows every unit.
    window, ordered, backend, workspace, tally: as `exact_topk`.
    precise:    fp8 alone: add partial products in float32 at every step instead of in Hopper's
                matrix units, which keep some 14 bits; slower. CPU and bf16 are always precise.
    returns:    float32 values and int64 positions [query, k]; free places hold -inf and -1.
    Raises KernelError for shapes, dtypes, devices or k out of bounds, and for a NaN score.

    Exactness: the set is exact for the scores as accumulated on the device. Against float64 only
    units may differ whose scores lie within 2 * e * sum_j |weight_j| * scale * |q_j| * max|k| of
    the k-th, e = (dim + heads) * 2**-23, or 2**-12 for fp8 unless precise.
    Memory: 4 * unit + 4 * unit / 16 + 8 * min(unit, 16 * k) bytes for each row of a chunk, in
    chunks of about `workspace` bytes.
    """
    check_index(queries, keys, weights, key_scales, activation)
    check_positions(positions, window, queries.shape[1])
    check_k(k)
    common_device(queries, keys, weights, key_scales, positions)
    if not use_triton(backend, queries, keys, weights):
        return lightning_topk_reference(
            queries, keys, weights, k, scale=scale, key_scales=key_scales, activation=activation,
            positions=positions, window=window,
        )  # fmt: skip
    count = queries.shape[1]
    step = max(16, workspace // stored_row_bytes(len(keys), k))
    swapped = operand(queries.transpose(0, 1).contiguous())  # (query, head, dim)
    parts = []
    for start in range(0, count, step):
        scores = lightning_scores(
            swapped, operand(keys), weights.float().contiguous(),
            slice(start, min(start + step, count)), scale=scale, key_scales=key_scales,
            relu=activation == "relu", positions=positions, window=window, precise=precise,
        )  # fmt: skip
        parts.append(row_topk(scores, k, ordered=ordered, backend="triton", tally=tally))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def lightning_scores(
    queries: Tensor,
    keys: Tensor,
    weights: Tensor,
    lines: slice,
    *,
    scale: float,
    key_scales: Tensor | None,
    relu: bool,
    positions: Tensor | None,
    window: int | None,
    precise: bool,
) -> Tensor:
    """float32 [line, unit] for a slice of query rows; queries [query, head, dim] contiguous."""
    _, heads, dim = queries.shape
    count = lines.stop - lines.start
    padded_heads = power_of_two(heads, 1)
    block_q = max(1, min(COLUMNS // padded_heads, power_of_two(count, 1)))
    block_q = max(block_q, -(-16 // padded_heads))  # a dot needs 16 columns
    blocks = -(-count // block_q)
    scores = torch.empty(count, len(keys), dtype=torch.float32, device=queries.device)
    splits = max(1, min(-(-len(keys) // 128), -(-1024 // blocks)))
    lightning_kernel[(blocks, splits)](
        queries, keys, weights, None if key_scales is None else key_scales.float().contiguous(),
        None if positions is None else positions.to(torch.int32), scores,
        lines.start, count, len(keys), keys.stride(0), float(scale), splits,
        heads=heads, padded_heads=padded_heads, block_q=block_q, dim=dim,
        chunk=power_of_two(dim, 32), block_u=128, relu=relu, scaled=key_scales is not None,
        window=window or 0, causal=positions is not None,
        precise=precise and queries.dtype == FP8, num_warps=8, num_stages=3,
    )  # fmt: skip
    return scores


def lightning_topk_reference(
    queries: Tensor,
    keys: Tensor,
    weights: Tensor,
    k: int,
    *,
    scale: float = 1.0,
    key_scales: Tensor | None = None,
    activation: str = "relu",
    positions: Tensor | None = None,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """lightning_topk in plain torch. Memory: 64 MiB of per-head products."""
    check_index(queries, keys, weights, key_scales, activation)
    check_positions(positions, window, queries.shape[1])
    check_k(k)
    heads, count, _ = queries.shape
    step = max(1, REFERENCE_BYTES // (4 * heads * len(keys)))
    parts = []
    for start in range(0, count, step):
        lines = slice(start, min(start + step, count))
        product = queries[:, lines].float() @ keys.float().mT * scale
        if activation == "relu":
            product = product.relu_()
        scores = torch.einsum("th,htu->tu", weights[lines].float(), product)
        if key_scales is not None:
            scores = scores * key_scales.float()
        if positions is not None:
            scores = scores.where(visible(positions[lines], window, len(keys)), HIDDEN)
        parts.append(topk(scores, k))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def check_index(
    queries: Tensor, keys: Tensor, weights: Tensor, key_scales: Tensor | None, activation: str
) -> None:
    """Raises KernelError unless the indexer's operands belong together."""
    if activation not in ACTIVATIONS:
        raise KernelError(f"activation = {activation!r}: expected one of {', '.join(ACTIVATIONS)}")
    fits = queries.ndim == 3 and keys.ndim == 2 and queries.shape[2] == keys.shape[1]
    if not fits or 0 in queries.shape or 0 in keys.shape or queries.shape[2] > 256:
        raise KernelError(
            f"queries {tuple(queries.shape)} and keys {tuple(keys.shape)}: expected "
            "[index_head, query, dim] and [unit, dim] with one dim, at most 256"
        )
    if weights.shape != (queries.shape[1], queries.shape[0]):
        raise KernelError(
            f"weights {tuple(weights.shape)}: expected [query, index_head] = "
            f"({queries.shape[1]}, {queries.shape[0]})"
        )
    if queries.dtype not in (*DTYPES, FP8) or keys.dtype != queries.dtype:
        raise KernelError(
            f"queries are {queries.dtype} and keys {keys.dtype}: expected one of bfloat16, "
            "float16, float32, float8_e4m3fn for both"
        )
    if key_scales is not None and key_scales.shape != keys.shape[:1]:
        raise KernelError(f"key_scales {tuple(key_scales.shape)}: expected [unit] = ({len(keys)},)")
