"""Lightning Indexer scores, bfloat16 or fp8 e4m3, and their exact top-k.

score[t, s] = key_scale[s] * sum_j weight[t, j] * act(scale * q[t, j] . k[s])

Keys lie on the rows of a tile and (query, index head) pairs on its columns, so that the head sum
is almost wholly inside a thread.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels.backend import common_device, jit, operand, power_of_two, tl, use_triton
from indexer_kernels.operands import (
    DTYPES,
    REFERENCE_BYTES,
    WORKSPACE,
    Tally,
    check_k,
    check_positions,
    visible,
)
from indexer_kernels.row_select import group_of
from indexer_kernels.row_topk import largest_first, select_rows, stored_row_bytes
from indexer_kernels.topk import HIDDEN, KernelError, topk

FP8 = torch.float8_e4m3fn
ACTIVATIONS = ("relu", "none")


@dataclass(frozen=True)
class IndexShape:
    """How the scoring pass is cut up: units and (query, head) columns a tile, warps, stages."""

    units: int = 64
    columns: int = 256
    warps: int = 4
    stages: int = 3


@jit
def lightning_kernel(
    queries, keys, weights, key_scales, positions, scores, maxima,
    start, lines, count, groups, key_stride, scale, splits,
    heads: tl.constexpr, padded_heads: tl.constexpr, block_q: tl.constexpr,
    dim: tl.constexpr, chunk: tl.constexpr, block_u: tl.constexpr, group: tl.constexpr,
    relu: tl.constexpr, folded: tl.constexpr, scaled: tl.constexpr, window: tl.constexpr,
    causal: tl.constexpr, precise: tl.constexpr,
):  # fmt: skip
    """Scores [line, unit] of query rows start.. , -inf where hidden, and maxima [line, group] of
    neighbours, NaN where one is NaN; grid (row blocks, splits).

    queries [query, head, dim], weights [query, head], both contiguous. folded: the scale may be
    part of the weights, which spares a multiplication a product.
    """
    columns: tl.constexpr = block_q * padded_heads
    column = tl.arange(0, columns)
    head = column % padded_heads
    column_line = tl.program_id(0) * block_q + column // padded_heads
    live = (column_line < lines) & (head < heads)
    at = (start + column_line).to(tl.int64) * heads + head
    weight = tl.load(weights + at, mask=live, other=0.0)
    if folded:
        weight = weight * scale
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
    share = tl.cdiv(tl.cdiv(count, block_u), splits)
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, tl.cdiv(count, block_u))
    for tile in range(first, last):
        unit = tile * block_u + tl.arange(0, block_u)
        key = tl.load(
            keys + unit[:, None].to(tl.int64) * key_stride + feature[None, :],
            mask=(unit < count)[:, None] & (feature < dim)[None, :], other=0.0,
        )  # fmt: skip
        if precise:
            acc = tl.dot(key, query, input_precision="ieee", max_num_imprecise_acc=0)
        else:
            acc = tl.dot(key, query, input_precision="ieee")
        if not folded:
            acc = acc * scale
        if relu:
            acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
        weighed = acc * weight[None, :]
        if heads < padded_heads:
            weighed = tl.where(live[None, :], weighed, 0.0)
        score = tl.sum(tl.reshape(weighed, [block_u, block_q, padded_heads]), 2)
        if scaled:
            factor = tl.load(key_scales + unit, mask=unit < count, other=0.0)
            score = score * factor[:, None]
        shown = (unit < count)[:, None] & row_seen[None, :]
        seen = shown
        if causal:
            distance = pos[None, :] - unit[:, None]
            seen = seen & (distance >= 0)
            if window > 0:
                seen = seen & (distance < window)
        score = tl.where(seen, score, float("-inf"))
        to = scores + line[None, :].to(tl.int64) * count + unit[:, None]
        tl.store(to, score, mask=shown)
        if group > 0:
            split = tl.reshape(score, [block_u // group, group, block_q])
            bad = tl.max((split != split).to(tl.int32), 1)
            best = tl.where(bad > 0, float("nan"), tl.max(split, 1))
            slot = tile * (block_u // group) + tl.arange(0, block_u // group)
            to = maxima + line[None, :].to(tl.int64) * groups + slot[:, None]
            tl.store(to, best, mask=row_seen[None, :] & (slot < groups)[:, None])


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
    Memory: 4 * unit + 8 * unit / 16 + 8 * min(unit, max(4 * k, 1024)) bytes for each row of a
    chunk, in chunks of about `workspace` bytes, beside the outputs.
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
    count, device = queries.shape[1], queries.device
    scoring = IndexScoring(
        operand(queries.transpose(0, 1).contiguous()), operand(keys), weights.float().contiguous(),
        scale, key_scales, activation == "relu", positions, window, precise,
    )  # fmt: skip
    values = torch.empty(count, k, dtype=torch.float32, device=device)
    chosen = torch.empty(count, k, dtype=torch.int64, device=device)
    step = max(16, workspace // stored_row_bytes(len(keys), k))
    for start in range(0, count, step):
        lines = slice(start, min(start + step, count))
        select_rows(
            *scoring.with_maxima(lines), k, values=values[lines], chosen=chosen[lines], tally=tally
        )
    return largest_first(values, chosen) if ordered else (values, chosen)


@dataclass(frozen=True)
class IndexScoring:
    """The operands of the scoring kernel: queries [query, head, dim] contiguous, keys [unit, dim],
    weights float32 [query, head] contiguous; the rest as `lightning_topk`."""

    queries: Tensor
    keys: Tensor
    weights: Tensor
    scale: float
    key_scales: Tensor | None
    relu: bool
    positions: Tensor | None
    window: int | None
    precise: bool
    shape: IndexShape = IndexShape()

    def scores(self, lines: slice) -> Tensor:
        """float32 [line, unit] for a slice of query rows."""
        return self._launched(lines, 0)[0]

    def with_maxima(self, lines: slice) -> tuple[Tensor, Tensor, int]:
        """The scores, the maxima of groups of neighbours, and how many are a group."""
        group = min(group_of(len(self.keys)), self.shape.units)
        return (*self._launched(lines, group), group)

    def _launched(self, lines: slice, group: int) -> tuple[Tensor, Tensor]:
        _, heads, dim = self.queries.shape
        units, device, shape = len(self.keys), self.queries.device, self.shape
        count = lines.stop - lines.start
        padded_heads = power_of_two(heads, 1)
        block_q = max(1, min(shape.columns // padded_heads, power_of_two(count, 1)))
        block_q = max(block_q, -(-16 // padded_heads))  # a dot needs 16 columns
        blocks = -(-count // block_q)
        groups = -(-units // group) if group else 0
        scores = torch.empty(count, units, dtype=torch.float32, device=device)
        maxima = torch.empty(count, groups, dtype=torch.float32, device=device)
        splits = max(1, min(-(-units // shape.units), -(-1024 // blocks)))
        lightning_kernel[(blocks, splits)](
            self.queries, self.keys, self.weights,
            None if self.key_scales is None else self.key_scales.float().contiguous(),
            None if self.positions is None else self.positions.to(torch.int32), scores, maxima,
            lines.start, count, units, groups, self.keys.stride(0), float(self.scale), splits,
            heads=heads, padded_heads=padded_heads, block_q=block_q, dim=dim,
            chunk=power_of_two(dim, 32), block_u=shape.units, group=group, relu=self.relu,
            folded=self.scale > 0 or not self.relu, scaled=self.key_scales is not None,
            window=self.window or 0, causal=self.positions is not None,
            precise=self.precise and self.queries.dtype == FP8,
            num_warps=shape.warps, num_stages=shape.stages,
        )  # fmt: skip
        return scores, maxima


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
    return IndexScoring(
        queries, keys, weights, scale, key_scales, relu, positions, window, precise
    ).scores(lines)


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
