"""From a proven lower bound to the exact set: bound, candidates, cut.

Group maxima give the bound: k groups hold a key at or above the k-th largest group maximum, so the
k-th largest score is no lower. Every key at or above the bound is a candidate, and a candidate is
kept as one int64 that orders by value and then by lowest position, so that no two are equal and
the cut is the one answer that the tie rule allows.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl
from indexer_kernels.tiles import BLOCK_N, halfway, ordered, packed, span_within, unordered
from indexer_kernels.topk import HIDDEN

RESIDENT = 8192  # values a program keeps in registers while it bisects
FEW_ROWS = 512
SEGMENT = 8192  # stored scores that one program gathers candidates from
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
    first, last = block_span(
        positions, row, rows, keys, 0, tl.cdiv(keys, block_n), block_m, block_n, window, causal
    )
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
    positions, row, rows, keys, begin, end,
    block_m: tl.constexpr, block_n: tl.constexpr, window: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    """The key span of the row block that this row was scored in, within tiles begin to end."""
    peers = (row // block_m) * block_m + tl.arange(0, block_m)
    seen = peers < rows
    pos = peers
    if causal:
        pos = tl.load(positions + peers, mask=seen, other=0)
    return span_within(pos, seen, keys, begin, end, window, causal, block_n)


@jit
def compact_masks_kernel(
    words, scores, positions, candidates, counts, rows, keys, begin_tile, end_tile, capacity,
    block_m: tl.constexpr, block_n: tl.constexpr, block: tl.constexpr,
    window: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    """Adds a row's candidates of tiles begin to end from their gate bits, in key order.

    Grid (batch * rows); words and scores hold these tiles alone, and a score is read only where
    its bit is set. counts says how many candidates the tiles before gave and receives how many
    there are now, also those beyond the capacity.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program % rows
    first, last = block_span(
        positions, row, rows, keys, begin_tile, end_tile, block_m, block_n, window, causal
    )
    tiles = end_tile - begin_tile
    words += program * tiles * (block_n // 32)
    scores += program * tiles * block_n
    end = (last - begin_tile) * (block_n // 32)
    found = tl.load(counts + program)
    for begin in range((first - begin_tile) * (block_n // 32), end, block):
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
            live = word != 0
            at = (slot // 4) * 128 + (bit >> 1) * 8 + (slot % 4) * 2 + (bit & 1)
            value = tl.load(scores + at, mask=live, other=0.0)
            inside = live & (place < capacity)
            key = packed(value, begin_tile * block_n + at)
            tl.store(candidates + program * capacity + place, key, mask=inside)
            place += 1
            word = rest
    tl.store(counts + program, found)


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
    nothing = tl.full([], -2147483648, tl.int32)  # below ordered(-inf)
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
            taken = (value >= low) & (key >= least) & (here < count)
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

        Too many for the capacity, or fewer than k above a bound that k groups had reached: the
        second scoring pass did not repeat the first one's bits.
        """
        short = (self.counts < k) & (self.bounds > HIDDEN)
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
    "BLOCK_N", "NOTHING", "Candidates", "bound_kernel", "compact_masks_kernel", "cut", "cut_value",
    "empty_candidates", "few", "from_scores", "largest_first", "resident",
]  # fmt: skip
