"""A claim's verdict: supported, not supported or undecided here, with the numbers behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from indexer_lab.statistics.bootstrap import Interval


class Finding(StrEnum):
    """What the data say of a claim. UNDECIDED: too few prompts, or an interval on both sides."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported"
    UNDECIDED = "undecided here"


@dataclass(frozen=True)
class Number:
    """An estimate with its 95 % interval.

    estimate, low, high: nan where the data do not give them; an end of the interval that is
                         infinite lies beyond what was measured.
    n:      prompts that it rests on.
    unit:   what it counts: share, nats, keys.
    reason: why there is no estimate or no interval; "" where there is.
    """

    name: str
    estimate: float
    low: float
    high: float
    n: int
    unit: str = "share"
    reason: str = ""

    @staticmethod
    def of(name: str, found: Interval, unit: str = "share") -> Number:
        """The number that an interval of `indexer_lab.statistics` gives."""
        ends = found.estimate, found.low, found.high
        return Number(name, *ends, found.clusters, unit, found.reason)

    @property
    def decided(self) -> bool:
        """Whether there is an interval to judge by."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def __str__(self) -> str:
        """As a sentence has it: 0.98 [0.95, 1.00]."""
        if math.isnan(self.estimate):
            return f"unknown ({self.reason})" if self.reason else "unknown"
        if math.isinf(self.estimate):
            return self.reason or figures(self.estimate)
        if not self.decided:
            return f"{figures(self.estimate)} (no interval: {self.reason})"
        return f"{figures(self.estimate)} [{figures(self.low)}, {figures(self.high)}]"


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    sentence: the finding in words, with numbers and intervals.
    numbers:  those that the finding rests on, and those that a reader needs beside them.
    caveats:  what this run cannot tell, a sentence each.
    """

    finding: Finding
    sentence: str
    numbers: tuple[Number, ...] = ()
    caveats: tuple[str, ...] = ()


def at_least(number: Number, bar: float) -> Finding:
    """Whether the whole interval reaches the bar, lies under it, or neither."""
    if not number.decided:
        return Finding.UNDECIDED
    if number.low >= bar:
        return Finding.SUPPORTED
    return Finding.NOT_SUPPORTED if number.high < bar else Finding.UNDECIDED


def at_most(number: Number, bar: float) -> Finding:
    """Whether the whole interval keeps to the bar, lies over it, or neither."""
    if not number.decided:
        return Finding.UNDECIDED
    if number.high <= bar:
        return Finding.SUPPORTED
    return Finding.NOT_SUPPORTED if number.low > bar else Finding.UNDECIDED


def all_of(*parts: Finding) -> Finding:
    """A claim of several parts: one that fails fails it, one that is open leaves it open."""
    if not parts:
        return Finding.UNDECIDED
    if Finding.NOT_SUPPORTED in parts:
        return Finding.NOT_SUPPORTED
    return Finding.UNDECIDED if Finding.UNDECIDED in parts else Finding.SUPPORTED


def figures(value: float) -> str:
    """A number as a sentence has it: three digits, no more than two behind a whole one."""
    if not math.isfinite(value):
        return "beyond" if math.isinf(value) else "unknown"  # of what was measured
    return f"{value:.2f}" if 0.1 <= abs(value) < 100 else f"{value:.3g}"
