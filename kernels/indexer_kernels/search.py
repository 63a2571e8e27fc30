"""The one search that every selection ends in: the k-th largest of a row's values, by bisection.

A row's values lie in memory as `segments` runs, each with its own count and of one layout:

values   float32, one a place
records  a position and a float32, 8 bytes a place
pairs    for two places their two float32, the first one's position, and 4 free bytes

The first `width` places of each run stay in registers; longer runs are read again at every step.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from indexer_kernels.backend import jit, tl
from indexer_kernels.bits import halfway, ordered, unordered


@jit
def run_slots(
    counts, room, most, begin,
    layout: tl.constexpr, segments: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    """Places from `begin` on of every run, and which of them are filled.

    room, most: places of a run and those of the longest; counts: filled ones, of pairs half as
    many; None with a single run.
    """
    slot = tl.arange(0, segments * width)
    which = slot // width
    inside = begin + slot % width
    filled = inside < most
    if segments > 1:
        held = tl.load(counts + which)
        if layout == "pairs":
            held = 2 * held
        filled = inside < tl.minimum(held, room)
    return which.to(tl.int64) * room + inside, filled


@jit
def value_at(place, layout: tl.constexpr):
    """Where, in 4-byte words, a run holds its value of a place."""
    word = place
    if layout == "records":
        word = 2 * place + 1
    elif layout == "pairs":
        word = 4 * (place >> 1) + (place & 1)
    return word


@jit
def position_at(place, layout: tl.constexpr):
    """Where it holds the position that goes with it, and what must be added to that."""
    word = 2 * place
    more = place * 0
    if layout == "pairs":
        word = 4 * (place >> 1) + 2
        more = place & 1
    return word, more


@jit
def run_values(
    values, counts, room, most, begin, least,
    layout: tl.constexpr, segments: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    """Ordered values at those places, that of -inf where none is or it is below `least`; and which
    places hold one."""
    place, filled = run_slots(counts, room, most, begin, layout, segments, width)
    value = tl.load(values + value_at(place, layout), mask=filled, other=float("-inf"))
    live = filled & (value >= least)
    return ordered(tl.where(live, value, float("-inf"))), live


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
def narrowed(low, high, middle, reached, k, close: tl.constexpr):
    """The search's ends after one threshold: at least k reach `low`, fewer reach `high`.

    Where exactly k reach it nothing higher serves as many, so the ends meet there, unless `close`
    asks for ends with the k-th value itself between them.
    """
    enough = reached >= k
    ends = tl.where(enough, high, middle)
    if not close:
        ends = tl.where(reached == k, middle + 1, ends)
    high = tl.minimum(high, ends)
    return tl.where(enough, tl.maximum(low, middle), low), high


@jit
def kth_bracket(
    values, counts, room, most, k, least, slack,
    layout: tl.constexpr, segments: tl.constexpr, width: tl.constexpr, rest: tl.constexpr,
    many: tl.constexpr, close: tl.constexpr,
):  # fmt: skip
    """Ordered ends low < high: at least k values reach low, and fewer reach high or all that reach
    low do. Where there are no more than k values both ends are the least of them. And how many
    there are, those below the float `least` left out.

    most: the longest run's count. width, rest: places of a run that are read at once, at first and
    then. The ends are neighbours; if `close`, they may lie up to `slack`
    apart, and the k-th largest value is in [low, high).
    """
    resident, live = run_values(values, counts, room, most, 0, least, layout, segments, width)
    high = tl.max(resident, 0)
    low = tl.min(tl.where(live, resident, 2147483647), 0)
    total = tl.sum(live.to(tl.int32), 0)
    for begin in range(width, most, rest):
        more, there = run_values(
            values, counts, room, most, begin, least, layout, segments, rest
        )  # fmt: skip
        high = tl.maximum(high, tl.max(more, 0))
        low = tl.minimum(low, tl.min(tl.where(there, more, 2147483647), 0))
        total += tl.sum(there.to(tl.int32), 0)
    low = tl.minimum(low, high)
    high = tl.where(total <= k, low, high + 1)
    apart = low + 1 < high
    if close:
        apart = apart & (unordered(high) - unordered(low) > slack)
    while apart:
        middle = halfway(low, high)
        before, after = halfway(low, middle), halfway(middle, high)
        one, two, three = reaching(resident, before, middle, after, many)
        for begin in range(width, most, rest):
            more, _ = run_values(
                values, counts, room, most, begin, least, layout, segments, rest
            )  # fmt: skip
            more_one, more_two, more_three = reaching(more, before, middle, after, many)
            one, two, three = one + more_one, two + more_two, three + more_three
        low, high = narrowed(low, high, middle, two, k, close)
        if many:
            low, high = narrowed(low, high, before, one, k, close)
            low, high = narrowed(low, high, after, three, k, close)
        apart = low + 1 < high
        if close:
            apart = apart & (unordered(high) - unordered(low) > slack)
    return low, high, total
