"""From a list of candidates to the exact set: bracket the cut, settle the band around it.

A candidate is one int64, its float32 value above and its position below. Values either are final
(`exact`), or come from the matrix unit and lie within e of the written sum: then the keys within 2e
of the cut are added again as written, and no others (margin.py says why that is enough).
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from indexer_kernels.backend import jit, tl
from indexer_kernels.bits import halfway, ordered, packed, unordered
from indexer_kernels.search import kth_bracket, position_at, run_slots, value_at
from indexer_kernels.written import written_logits

BAND = 256  # band keys that a program keeps in registers


@jit
def settle(
    words, halves, counts, room, most, k, bound, doubled,
    query, keys, key_stride, scale, band, band_room, chosen, values,
    layout: tl.constexpr, segments: tl.constexpr, width: tl.constexpr, rest: tl.constexpr,
    many: tl.constexpr, exact: tl.constexpr, kth_only: tl.constexpr, dim: tl.constexpr,
    padded: tl.constexpr, levels: tl.constexpr, block: tl.constexpr, band_block: tl.constexpr,
):  # fmt: skip
    """Writes a row's chosen [k], -1 in free places, and if `exact` its values [k]; with kth_only
    one value alone, -inf where there are fewer than k.

    words, halves: the row's runs (search.py), as int32 and as float32. What is below `bound` is no
    candidate. band: int64 scratch, which may be the records themselves where they are a single
    run. doubled: 2e.
    returns: a value that k candidates reach, how many there are, and how many lie in the band. More
    than band_room leave the row unanswered.
    """
    low, high, total = kth_bracket(
        halves, counts, room, most, k, bound, doubled,
        layout, segments, width, rest, many, not exact,
    )  # fmt: skip
    top = unordered(high) + doubled
    floor = unordered(low) - doubled
    least = tl.full([], 2147483647, tl.int32)
    sure_count = tl.full([], 0, tl.int32)
    banded = tl.full([], 0, tl.int32)
    for begin in range(0, most, rest):
        place, filled = run_slots(counts, room, most, begin, layout, segments, rest)
        word, more = position_at(place, layout)
        at = tl.load(words + word, mask=filled, other=0) + more.to(tl.int32)
        value = tl.load(halves + value_at(place, layout), mask=filled, other=float("-inf"))
        filled = filled & (value >= bound)
        if exact:
            sure = filled & (ordered(value) >= high)
            edge = filled & (ordered(value) == tl.where(low < high, low, -2147483648))
            least = tl.minimum(least, tl.min(tl.where(sure, ordered(value), 2147483647), 0))
        else:
            sure = filled & (value > top)
            edge = filled & (value >= floor) & (value <= top)
        # both ranks in one scan; a step holds fewer than 2**16 candidates
        marks = sure.to(tl.int32) + (edge.to(tl.int32) << 16)
        ranks = tl.cumsum(marks, 0) - marks
        sums = tl.sum(marks, 0)
        if not kth_only:
            to = sure_count + (ranks & 0xFFFF)
            tl.store(chosen + to, at.to(tl.int64), mask=sure)
            if exact:
                tl.store(values + to, value, mask=sure)
        tl.debug_barrier()  # the band may overwrite records: only those that all have read
        to = banded + (ranks >> 16)
        tl.store(band + to, packed(value, at), mask=edge & (to < band_room))
        sure_count += sums & 0xFFFF
        banded += sums >> 16
    tl.debug_barrier()
    fits = tl.minimum(banded, band_room)
    if not exact:
        for begin in range(0, fits, block):
            spot = begin + tl.arange(0, block)
            live = spot < fits
            key = tl.load(band + spot, mask=live, other=0)
            at = 0x7FFFFFFF - (key & 0xFFFFFFFF)
            logit = written_logits(
                query, keys, at, live, key_stride, scale, dim, padded, levels, block
            )  # fmt: skip
            tl.store(band + spot, packed(logit, at.to(tl.int32)), mask=live)
        tl.debug_barrier()
    needed = k - sure_count
    last = kth_packed(band, fits, needed, band_block)
    written = sure_count
    for begin in range(0, fits, band_block):
        spot = begin + tl.arange(0, band_block)
        key = tl.load(band + spot, mask=spot < fits, other=0)
        taken = (spot < fits) & (key >= last)
        value = (key >> 32).to(tl.int32)
        least = tl.minimum(least, tl.min(tl.where(taken, value, 2147483647), 0))
        one = taken.to(tl.int32)
        if not kth_only:
            to = written + tl.cumsum(one, 0) - one
            tl.store(chosen + to, 0x7FFFFFFF - (key & 0xFFFFFFFF), mask=taken)
            if exact:
                tl.store(values + to, unordered(value), mask=taken)
        written += tl.sum(one, 0)
    if kth_only:
        tl.store(values, tl.where(written >= k, unordered(least), float("-inf")))
    else:
        for begin in range(0, k, 1024):
            place = begin + tl.arange(0, 1024)
            pad = (place >= written) & (place < k)
            tl.store(chosen + place, tl.full([1024], -1, tl.int64), mask=pad)
            if exact:
                tl.store(values + place, float("-inf"), mask=pad)
    return unordered(low), total, banded


@jit
def kth_packed(band, count, k, block: tl.constexpr):
    """The k-th largest of `count` different int64, or one as good; their least where k are all."""
    spot = tl.arange(0, block)
    resident = tl.load(band + spot, mask=spot < count, other=-9223372036854775807 - 1)
    high = tl.max(resident, 0)
    low = tl.min(tl.where(spot < count, resident, high), 0)
    for begin in range(block, count, block):
        more = tl.load(
            band + begin + spot, mask=begin + spot < count, other=-9223372036854775807 - 1
        )
        high = tl.maximum(high, tl.max(more, 0))
        low = tl.minimum(low, tl.min(tl.where(begin + spot < count, more, low), 0))
    high = tl.where(count <= k, low, high + 1)
    while low + 1 < high:
        middle = halfway(low, high)
        reached = tl.sum((resident >= middle).to(tl.int32), 0)
        for begin in range(block, count, block):
            more = tl.load(
                band + begin + spot, mask=begin + spot < count, other=-9223372036854775807 - 1
            )
            reached += tl.sum((more >= middle).to(tl.int32), 0)
        low = tl.where(reached >= k, middle, low)
        ends = tl.where(reached >= k, high, middle)
        high = tl.where(reached == k, middle + 1, ends)
    return low
