"""Numbers as a reader wants them, and labels that can be drawn."""

import math


def percent(share: float) -> str:
    """A share in per cent; what is not quite all or nothing never rounds to it.

    >>> percent(0.931), percent(1.0), percent(0.99996)
    ('93.1 %', '100 %', '99.996 %')
    """
    if not math.isfinite(share):
        return "unknown"
    if share in (0.0, 1.0):
        return f"{share * 100:.0f} %"
    for digits in range(1, 9):
        text = f"{share * 100:.{digits}f}"
        if 0.0 < float(text) < 100.0:
            return f"{text} %"
    return f"{share * 100!r} %"


def count(number: float, noun: str) -> str:
    """A whole number with its noun, plural when it must be.

    >>> count(1, "row"), count(4096, "row")
    ('1 row', '4,096 rows')
    """
    return f"{int(number):,} {noun}{'' if int(number) == 1 else 's'}"


def span(low: float, high: float) -> str:
    """A range of whole numbers, or the one number."""
    return f"{int(low):,}" if low == high else f"{int(low):,}–{int(high):,}"


def quantity(number: float, unit: str) -> str:
    """Three significant digits with a metric prefix.

    >>> quantity(12_300, "B"), quantity(0, "B"), quantity(2.5e6, "B")
    ('12.3 kB', '0 B', '2.5 MB')
    """
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= scale * 0.9995:
            return f"{number / scale:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"


def printable(text: str) -> str:
    """The text with control characters spelled out: they break lines and are not legal in SVG."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
