"""Which sample a record is of, for the selectors that look it up somewhere else."""

from __future__ import annotations

from indexer_lab.selectors.base import Selector


def of_sample(chosen: Selector, sample: str) -> Selector:
    """The selector on the sample of this id, where its kind asks for one; else itself."""
    ask = getattr(chosen, "of_sample", None)
    if ask is None:
        return chosen
    placed: Selector = ask(sample)
    return placed
