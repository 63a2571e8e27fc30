"""Device code for numbers as bits: floats that compare as integers, candidates as one integer."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from indexer_kernels.backend import jit, tl


@jit
def ordered(x):
    """int32 that compares as the float32 does, -0 equal to +0, NaN at the very bottom."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(x == x, key, -2147483648)


@jit
def unordered(key):
    """The float32 whose `ordered` value this int32 is."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@jit
def packed(value, position):
    """int64 that orders by value, then by lowest position; no two keys of a row share one."""
    return (ordered(value).to(tl.int64) << 32) | (0x7FFFFFFF - position).to(tl.int64)


@jit
def record(value, position):
    """int64 that holds a float32 value in its upper half and a position in its lower one."""
    return (value.to(tl.int32, bitcast=True).to(tl.int64) << 32) | position.to(tl.int64)


@jit
def halfway(low, high):
    """The floor of the mean of two signed integers, without overflow."""
    return (low & high) + ((low ^ high) >> 1)


@jit
def bit_count(word):
    """Set bits of each uint32; the compiler knows this form as its popc instruction."""
    pairs = word - ((word >> 1) & 0x55555555)
    fours = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    eights = (fours + (fours >> 4)) & 0x0F0F0F0F
    return ((eights * 0x01010101) >> 24).to(tl.int32)
