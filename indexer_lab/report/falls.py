"""Waterfalls as bars that a page can draw."""

from __future__ import annotations

from dataclasses import dataclass

from indexer_lab.report.content import plural
from indexer_lab.waterfall import Waterfall


@dataclass(frozen=True)
class Fall:
    """A waterfall as bars: name, per cent from the left, per cent wide, what it says, kind."""

    title: str
    bars: list[tuple[str, float, float, str, str]]


def telling(falls: list[Waterfall]) -> list[Waterfall]:
    """For each budget the waterfall with the most steps; among equals the one that loses most."""
    best: dict[int, Waterfall] = {}
    for fall in falls:
        rank = (len(fall.steps), -fall.kept)
        if fall.budget not in best or rank > (
            len(best[fall.budget].steps),
            -best[fall.budget].kept,
        ):
            best[fall.budget] = fall
    return [best[budget] for budget in sorted(best)]


def as_bars(fall: Waterfall) -> Fall:
    """One bar a step, from where the mass stands before it to where it stands after it."""
    bars = [("full attention", 0.0, 100.0, "100 %", "whole")]
    level = 1.0
    for step in fall.steps:
        after = level - step.lost
        low, high = sorted((_within(level), _within(after)))
        said = f"{-step.lost * 100:+.2f} %".replace("-", "−")
        bars.append((step.name, low, high - low, said, "lost" if step.lost >= 0 else "gained"))
        level = after
    bars.append(("kept", 0.0, _within(fall.kept), f"{fall.kept * 100:.2f} %", "whole"))
    rows = plural(fall.rows, "query row")
    return Fall(f"{fall.selector}, {plural(fall.budget, 'key')} per query, mean over {rows}", bars)


def _within(share: float) -> float:
    return round(100 * min(1.0, max(0.0, share)), 3)
