"""From a proven lower bound to the exact set: bound, candidates, cut.

Group maxima give the bound: k groups hold a key at or above the k-th largest group maximum, so the
k-th largest score is no lower. Every key at or above the bound is a candidate; where the maxima
come from the matrix unit and the logits do not, the bound is lowered by the error between the two.
A candidate is kept as one int64 that orders by value and then by lowest position, so that no two
are equal and the cut is the one answer that the tie rule allows.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl
from indexer_kernels.operands import Rows
from indexer_kernels.tiles import BLOCK_N, halfway, key_span, ordered, packed, unordered
from indexer_kernels.topk import HIDDEN

RESIDENT = 8192  # values a program keeps in registers while it bisects
FEW_ROWS = 512
SEGMENT = 8192  # stored scores that one program gathers candidates from
RESCORED = 8192  # key features that a program gathers at once
RESCORING = 1056  # programs that re-score where a row's share of them is more than one
NORM_SHARES = 1024
NOTHING = -(1 << 63)  # packed value below every candidate


@jit
def bound_kernel(
    maxima, positions, bounds, rows, keys, groups, k,
    block_m: tl.constexpr, group: tl.constexpr, block_n: tl.constexpr, block: tl.constexpr,
    window: tl.constexpr, causal: tl.constexpr, whole: tl.constexpr, many: tl.constexpr,
):  # fmt: skip
    """The largest value that at least k group maxima of the row reach, or one as good.

    Grid (batch * rows). Groups outside the row block's key span were not written and are skipped.
    Writes -inf where fewer than k groups hold a number. whole: a block holds all groups of a row.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program % rows
    first, last = block_span(positions, row, rows, keys, block_m, block_n, window, causal)
    count = (last - first) * (block_n // group)
    at = maxima + program * groups + first * (block_n // group)
    slot = tl.arange(0, block)
    rest = tl.arange(0, 1024)
    resident = ordered(tl.load(at + slot, mask=slot < count, other=float("-inf")))
    high = tl.max(resident, 0)
    low = tl.min(tl.where(slot < count, resident, high), 0)
    if not whole:
        for begin in range(block, count, 1024):
            more = maxima_from(at, begin + rest, count)
            high = tl.maximum(high, tl.max(more, 0))
            low = tl.minimum(low, tl.min(tl.where(begin + rest < count, more, low), 0))
    if count < k:
        low = tl.full([], -2139095041, tl.int32)  # ordered(-inf)
        high = low
    high += 1
    while low + 1 < high:
        middle = halfway(low, high)
        before, after = halfway(low, middle), halfway(middle, high)
        one, two, three = reaching(resident, before, middle, after, many)
        if not whole:
            for begin in range(block, count, 1024):
                more = maxima_from(at, begin + rest, count)
                more_one, more_two, more_three = reaching(more, before, middle, after, many)
                one, two, three = one + more_one, two + more_two, three + more_three
        low, high = narrowed(low, high, middle, two, k)
        if many:
            low, high = narrowed(low, high, before, one, k)
            low, high = narrowed(low, high, after, three, k)
    tl.store(bounds + program, unordered(low))


@jit
def maxima_from(at, slot, count):
    """Ordered group maxima at some slots, those of -inf beyond the count."""
    return ordered(tl.load(at + slot, mask=slot < count, other=float("-inf")))


@jit
def reaching(values, before, middle, after, many: tl.constexpr):
    """How many values reach each of three thresholds, or only the middle one unless `many`.

    One reduction serves all three: it is what a step of the search waits for. A block of values
    holds fewer than 2**20.
    """
    two = (values >= middle).to(tl.int32)
    if many:
        outer = ((values >= before).to(tl.int64) << 40) + ((values >= after).to(tl.int64) << 20)
        sums = tl.sum(outer + two.to(tl.int64), 0)
        mask: tl.constexpr = (1 << 20) - 1
        lower, reached, upper = sums >> 40, sums & mask, (sums >> 20) & mask
    else:
        reached = tl.sum(two, 0)
        lower, upper = reached, reached
    return lower, reached, upper


@jit
def narrowed(low, high, middle, reached, k):
    """The search's ends after one threshold: at least k reach `low`, fewer reach `high`.

    Where exactly k reach it nothing higher serves as many, so the ends meet.
    """
    enough = reached >= k
    high = tl.minimum(high, tl.where(reached == k, middle + 1, tl.where(enough, high, middle)))
    return tl.where(enough, tl.maximum(low, middle), low), high


@jit
def block_span(
    positions, row, rows, keys,
    block_m: tl.constexpr, block_n: tl.constexpr, window: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    """The key span of the row block that this row was scored in."""
    peers = (row // block_m) * block_m + tl.arange(0, block_m)
    seen = peers < rows
    pos = peers
    if causal:
        pos = tl.load(positions + peers, mask=seen, other=0)
    return key_span(pos, seen, keys, window, causal, block_n)


@jit
def expand_kernel(
    words, positions, candidates, counts, rows, keys, capacity,
    block_m: tl.constexpr, block_n: tl.constexpr, block: tl.constexpr,
    window: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    """Positions of a row's gate bits, the lower half of `packed`; rescore_kernel adds the upper.

    Grid (batch * rows). counts receives how many bits are set, also those beyond the capacity.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program % rows
    first, last = block_span(
        positions, row, rows, keys, block_m, block_n, window, causal
    )  # fmt: skip
    words += program * tl.cdiv(keys, block_n) * (block_n // 32)
    candidates += program * capacity
    end = last * (block_n // 32)
    found = tl.full([], 0, tl.int32)
    for begin in range(first * (block_n // 32), end, block):
        slot = begin + tl.arange(0, block)
        word = tl.load(words + slot, mask=slot < end, other=0)
        word = word.to(tl.uint32, bitcast=True)
        many = bit_count(word).to(tl.int32)
        place = found + tl.cumsum(many, 0) - many
        found += tl.sum(many, 0)
        deepest = tl.max(many, 0)
        for _ in range(deepest):
            rest = word & (word - 1)
            bit = bit_count((word ^ rest) - 1).to(tl.int32)
            inside = (word != 0) & (place < capacity)
            at = (slot // 4) * 128 + (bit >> 1) * 8 + (slot % 4) * 2 + (bit & 1)
            tl.store(candidates + place, (0x7FFFFFFF - at).to(tl.int64), mask=inside)
            place += 1
            word = rest
    tl.store(counts + program, found)


@jit
def rescore_kernel(
    queries, keys, halves, counts, rows, batch_stride, key_stride, capacity, scale,
    dim: tl.constexpr, padded: tl.constexpr, levels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Writes the upper half of `packed` for candidates whose lower half is there, by their keys.

    Grid (batch * rows, shares of a row). halves: the candidates as int32 pairs, lower half first.
    The logit is the float32 products added as a binary tree of neighbours (2**levels = padded
    leaves, zeros at the end), times the scale, each step rounded: the order is written out, so the
    bits depend on the operands alone. Launch it without fused multiply-adds.
    """
    program = tl.program_id(0).to(tl.int64)
    feature = tl.arange(0, padded)
    query = tl.load(queries + program * dim + feature, mask=feature < dim, other=0.0)
    query = query.to(tl.float32)
    keys += program // rows * batch_stride
    halves += program * capacity * 2
    count = tl.minimum(tl.load(counts + program), capacity)
    for begin in range(tl.program_id(1) * block, count, tl.num_programs(1) * block):
        slot = (begin + tl.arange(0, block)).to(tl.int64) * 2
        live = slot < count.to(tl.int64) * 2
        at = (0x7FFFFFFF - tl.load(halves + slot, mask=live, other=0x7FFFFFFF)).to(tl.int64)
        key = tl.load(
            keys + at[:, None] * key_stride + feature[None, :],
            mask=live[:, None] & (feature < dim)[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        sums = key * query[None, :]
        for level in tl.static_range(levels):
            sums = tl.sum(tl.reshape(sums, [block, padded >> (level + 1), 2]), 2)
        logit = tl.reshape(sums, [block]) * scale
        tl.store(halves + slot + 1, ordered(logit), mask=live)


@jit
def key_norms_kernel(
    keys, squares, count, batch_stride, key_stride,
    dim: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """squares [batch, share]: the largest sum of squares of a share of keys; NaN counts as inf.

    Grid (shares, batch).
    """
    feature = tl.arange(0, padded)
    keys += tl.program_id(1).to(tl.int64) * batch_stride
    most = tl.full([block], 0.0, tl.float32)
    for begin in range(tl.program_id(0) * block, count, tl.num_programs(0) * block):
        at = begin + tl.arange(0, block)
        key = tl.load(
            keys + at[:, None].to(tl.int64) * key_stride + feature[None, :],
            mask=(at < count)[:, None] & (feature < dim)[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        total = tl.sum(key * key, 1)
        most = tl.maximum(most, tl.where(total == total, total, float("inf")))
    tl.store(squares + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), tl.max(most, 0))


@jit
def lower_bounds_kernel(
    queries, squares, bounds, rows, shares, relative, absolute, tiny, largest,
    dim: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Lowers each bound by twice the error of a logit; NaN, which nothing reaches, where a sum
    might overflow. Grid (batch * rows); the constants are those of `gate_bounds`."""
    program = tl.program_id(0).to(tl.int64)
    feature = tl.arange(0, padded)
    query = tl.load(queries + program * dim + feature, mask=feature < dim, other=0.0)
    query = query.to(tl.float32)
    share = tl.arange(0, block)
    at = squares + program // rows * shares + share
    longest = tl.max(tl.load(at, mask=share < shares, other=0.0), 0)
    # rounded up: float32 sums of squares, and squares that underflow
    own = tl.sqrt(tl.sum(query * query, 0)) * 1.001 + tiny
    reach = own * (tl.sqrt(longest) * 1.001 + tiny)
    margin = 2.0 * (reach * relative + absolute)
    bound = tl.load(bounds + program)
    safe = reach * largest < 1e38  # false for NaN too
    tl.store(bounds + program, tl.where(safe, bound - margin, float("nan")))


@jit
def bit_count(word):
    """Set bits of each uint32."""
    pairs = word - ((word >> 1) & 0x55555555)
    fours = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    eights = (fours + (fours >> 4)) & 0x0F0F0F0F
    sixteens = eights + (eights >> 8)
    return (sixteens + (sixteens >> 16)) & 0x3F


@jit
def compact_scores_kernel(
    scores, bounds, counts, candidates, keys, stride, capacity, segment,
    block: tl.constexpr, counting: tl.constexpr,
):  # fmt: skip
    """Candidates of a segment of a row's stored scores, in position order. Grid (rows, segments).

    counting: writes counts [row, segment]. Otherwise counts says how many lie in segments before.
    """
    row = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1)
    bound = tl.load(bounds + row)
    end = tl.minimum(keys, (which + 1) * segment)
    at = counts + row * tl.num_programs(1) + which
    found = tl.full([], 0, tl.int32)
    if not counting:
        found = tl.load(at)
    for begin in range(which * segment, end, block):
        col = begin + tl.arange(0, block)
        value = tl.load(scores + row * stride + col, mask=col < end, other=float("-inf"))
        gate = (value >= bound) & (value > float("-inf"))
        one = gate.to(tl.int32)
        if not counting:
            place = found + tl.cumsum(one, 0) - one
            inside = gate & (place < capacity)
            tl.store(candidates + row * capacity + place, packed(value, col), mask=inside)
        found += tl.sum(one, 0)
    if counting:
        tl.store(at, found)


@jit
def cut_kernel(
    candidates, counts, values, chosen, capacity, k,
    block: tl.constexpr, kth_only: tl.constexpr, many: tl.constexpr,
):  # fmt: skip
    """The k largest candidates of a row, in candidate order; pads hold -inf and -1. Grid (rows).

    First the k-th largest value, from 32 bits a candidate; positions are looked at only where more
    candidates share that value than there are places left.
    kth_only: writes one value a row, the k-th largest, or -inf where there are fewer.
    """
    row = tl.program_id(0).to(tl.int64)
    count = tl.minimum(tl.load(counts + row), capacity)
    at = candidates + row * capacity
    slot = tl.arange(0, block)
    rest = tl.arange(0, 1024)
    resident = upper(at, slot, count)
    high = tl.max(resident, 0)
    low = tl.min(tl.where(slot < count, resident, high), 0)
    for begin in range(block, count, 1024):
        more = upper(at, begin + rest, count)
        high = tl.maximum(high, tl.max(more, 0))
        low = tl.minimum(low, tl.min(tl.where(begin + rest < count, more, low), 0))
    high += 1
    if count <= k:
        high = low  # all of them: nothing to search
    while low + 1 < high:
        middle = halfway(low, high)
        before, after = halfway(low, middle), halfway(middle, high)
        one, two, three = reaching(resident, before, middle, after, many)
        for begin in range(block, count, 1024):
            more = upper(at, begin + rest, count)
            more_one, more_two, more_three = reaching(more, before, middle, after, many)
            one, two, three = one + more_one, two + more_two, three + more_three
        low, high = narrowed(low, high, middle, two, k)
        if many:
            low, high = narrowed(low, high, before, one, k)
            low, high = narrowed(low, high, after, three, k)
    if kth_only:
        # the search may stop below the k-th value: it is the least of those that reach the end
        least = tl.min(tl.where(resident >= low, resident, 2147483647), 0)
        for begin in range(block, count, 1024):
            more = upper(at, begin + rest, count)
            ranked = (more >= low) & (begin + rest < count)
            least = tl.minimum(least, tl.min(tl.where(ranked, more, 2147483647), 0))
        tl.store(values + row, tl.where(count >= k, unordered(least), float("-inf")))
    else:
        reached = tl.sum((resident >= low).to(tl.int32), 0)
        for begin in range(block, count, 1024):
            more = upper(at, begin + rest, count)
            reached += tl.sum(((more >= low) & (begin + rest < count)).to(tl.int32), 0)
        least = tl.full([], -9223372036854775807 - 1, tl.int64)
        if (reached > k) & (count > k):
            least = least_of_ties(at, low, reached - k, count, rest)
        written = tl.full([], 0, tl.int32)
        for begin in range(0, count, 1024):
            here = begin + rest
            key = tl.load(at + here, mask=here < count, other=0)
            value = (key >> 32).to(tl.int32)
            # a candidate that turned out -inf is hidden: its place becomes a pad
            taken = (value >= low) & (key >= least) & (here < count) & (value > -2139095041)
            one = taken.to(tl.int32)
            place = row * k + written + tl.cumsum(one, 0) - one
            written += tl.sum(one, 0)
            tl.store(values + place, unordered(value), mask=taken)
            tl.store(chosen + place, 0x7FFFFFFF - (key & 0xFFFFFFFF), mask=taken)
        for begin in range(0, k, 1024):
            place = begin + rest
            pad = (place >= written) & (place < k)
            tl.store(values + row * k + place, float("-inf"), mask=pad)
            tl.store(chosen + row * k + place, tl.full([1024], -1, tl.int64), mask=pad)


@jit
def upper(at, slot, count):
    """The ordered values of candidates, without their positions; the least int32 beyond them."""
    key = tl.load(at + slot, mask=slot < count, other=-9223372036854775807 - 1)
    return (key >> 32).to(tl.int32)


@jit
def least_of_ties(at, value, surplus, count, rest):
    """The packed candidate that, of those with this value, exactly `surplus` lie below.

    They are equal but for their positions, the lower 32 bits, and no two of those are equal.
    """
    low = value.to(tl.int64) << 32
    high = low + 0x80000000
    while low + 1 < high:
        middle = halfway(low, high)
        below = tl.full([], 0, tl.int32)
        for begin in range(0, count, 1024):
            here = begin + rest
            key = tl.load(at + here, mask=here < count, other=0)
            tied = (here < count) & ((key >> 32).to(tl.int32) == value)
            below += tl.sum((tied & (key < middle)).to(tl.int32), 0)
        enough = below <= surplus
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    return low


@dataclass(frozen=True)
class Candidates:
    """Keys that may belong to the top-k of each row.

    packed: int64 [rows, capacity]; only the first `counts` of a row are written.
    counts: int32 [rows], how many keys passed the gate, also beyond the capacity.
    bounds: float32 [rows], the gate.
    """

    packed: Tensor
    counts: Tensor
    bounds: Tensor

    def failed(self, k: int) -> Tensor:
        """bool [rows]: rows whose candidates are not proven to hold the top-k.

        Too many for the capacity, or fewer than k above a bound that k groups had reached, which a
        bound of NaN, for want of one, always says.
        """
        short = (self.counts < k) & (self.bounds != HIDDEN)
        return short | (self.counts > self.packed.shape[1])


def resident(count: int) -> int:
    """Values that a bisecting program keeps in registers for rows of about `count`."""
    return min(power_of_two(count, 16), RESIDENT)


def from_scores(scores: Tensor, bounds: Tensor, capacity: int) -> Candidates:
    """Candidates of stored scores, float32 [rows, keys], at or above bounds [rows].

    Segments of a row are counted first, so that each knows where its candidates go and all run at
    once.
    """
    rows, keys = scores.shape
    made = empty_candidates(rows, capacity, bounds)
    grid = (rows, -(-keys // SEGMENT))
    many = torch.empty(grid, dtype=torch.int32, device=scores.device)
    size = {"segment": SEGMENT, "block": min(power_of_two(keys, 16), 2048), "num_warps": 4}
    fixed = (made.packed, keys, scores.stride(0), capacity)
    compact_scores_kernel[grid](scores, bounds, many, *fixed, counting=True, **size)
    ends = many.cumsum(1, dtype=torch.int32)
    made.counts.copy_(ends[:, -1])
    compact_scores_kernel[grid](scores, bounds, ends - many, *fixed, counting=False, **size)
    return made


def empty_candidates(rows: int, capacity: int, bounds: Tensor) -> Candidates:
    """Space for the candidates of `rows` rows, none yet."""
    packed = torch.empty(rows, capacity, dtype=torch.int64, device=bounds.device)
    counts = torch.zeros(rows, dtype=torch.int32, device=bounds.device)
    return Candidates(packed, counts, bounds)


def rescore(candidates: Candidates, rows: Rows) -> None:
    """Gives candidates, of which the lower halves are there, the logits of their keys."""
    lines, capacity = candidates.packed.shape
    _, count, _, dim = rows.shape
    padded = power_of_two(dim, 16)
    block = max(1, RESCORED // padded)
    # few rows share the device: more programs a row, each with fewer candidates
    shares = max(1, min(-(-capacity // block), RESCORING // lines))
    rescore_kernel[(lines, shares)](
        rows.queries, rows.keys, candidates.packed.view(torch.int32), candidates.counts,
        count, rows.keys.stride(0), rows.keys.stride(1), capacity, rows.scale,
        dim=dim, padded=padded, levels=padded.bit_length() - 1, block=block, num_warps=4,
        enable_fp_fusion=False,
    )  # fmt: skip


def gate_bounds(bounds: Tensor, rows: Rows) -> None:
    """Lowers bounds [batch * row] of matrix-unit logits, in place, to a gate for exact candidates.

    Let m be a key's logit from the matrix unit and r the one that `rescore` computes, and let
    |m - r| <= e for all visible keys of a row. k keys have m >= bound, hence r >= bound - e: the
    k-th largest r, call it R, is no lower. A key that may be chosen has r >= R, ties included, so
    m >= r - e >= bound - 2e: it passes a gate at bound - 2e.

    e: adding `dim` products one after another loses at most dim * 2**-23 of sum |q_i * k_i|, cut or
    rounded, the matrix unit's cut of blocks of 16 one part in 16 more; the tree loses
    (log2(dim) + 1) * 2**-24, the scale 2**-24 each. And sum |q_i * k_i| <= |q| * |k|. So
    e = 2 * (dim + 4) * 2**-23 * |scale| * |q| * max|k| leaves more than what rounding the bound
    itself takes; numbers that underflow add the absolute part.
    Where |q| * max|k| comes near float32's end the bound becomes NaN: the row fails, and the repair
    takes all its keys.
    """
    batch, count, keys, dim = rows.shape
    padded = power_of_two(dim, 16)
    block = max(1, RESCORED // padded)
    shares = min(NORM_SHARES, -(-keys // block))
    squares = torch.empty(batch, shares, dtype=torch.float32, device=bounds.device)
    key_norms_kernel[(shares, batch)](
        rows.keys, squares, keys, rows.keys.stride(0), rows.keys.stride(1),
        dim=dim, padded=padded, block=block, num_warps=4,
    )  # fmt: skip
    largest = max(1.0, abs(rows.scale))
    lower_bounds_kernel[(batch * count,)](
        rows.queries, squares, bounds, count, shares,
        2 * (dim + 4) * 2.0**-23 * abs(rows.scale), dim * 2.0**-120 * largest,
        dim**0.5 * 2.0**-62, largest,
        dim=dim, padded=padded, block=power_of_two(shares, 16), num_warps=4,
    )  # fmt: skip


def few(rows: int) -> bool:
    """Whether so few rows search at once that they wait for reductions, not for arithmetic."""
    return rows <= FEW_ROWS


def cut(
    candidates: Candidates, k: int, expected: int,
    values: Tensor | None = None, chosen: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """values float32 and positions int64 [rows, k], unordered; expected: usual candidates a row.

    values, chosen: contiguous tensors of rows * k places to write into, made where left out.
    """
    rows, capacity = candidates.packed.shape
    device = candidates.packed.device
    if values is None or chosen is None:
        values = torch.empty(rows, k, dtype=torch.float32, device=device)
        chosen = torch.empty(rows, k, dtype=torch.int64, device=device)
    cut_kernel[(rows,)](
        candidates.packed, candidates.counts, values, chosen, capacity, k,
        block=resident(expected), kth_only=False, many=few(rows), num_warps=8,
    )  # fmt: skip
    return values, chosen


def cut_value(
    candidates: Candidates, k: int, expected: int, values: Tensor | None = None
) -> Tensor:
    """float32 [rows]: the k-th largest candidate, -inf where there are fewer."""
    rows, capacity = candidates.packed.shape
    if values is None:
        values = torch.empty(rows, dtype=torch.float32, device=candidates.packed.device)
    cut_kernel[(rows,)](
        candidates.packed, candidates.counts, values, values, capacity, k,
        block=resident(expected), kth_only=True, many=few(rows), num_warps=8,
    )  # fmt: skip
    return values


def largest_first(values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """values and positions [rows, k] sorted: largest first, then lowest position, pads last."""
    positions, order = positions.where(positions >= 0, 1 << 31).sort(dim=-1)
    values, by_value = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    positions = positions.gather(-1, by_value)
    return values, positions.masked_fill_(positions == 1 << 31, -1)


__all__ = [
    "BLOCK_N", "NOTHING", "Candidates", "bound_kernel", "cut", "cut_value", "empty_candidates",
    "expand_kernel", "few", "from_scores", "gate_bounds", "largest_first", "rescore", "resident",
]  # fmt: skip
