"""Which query rows a capture keeps: last:256, every:64, random:512 or all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_lab.errors import InputError

RULES = ("last", "every", "random", "all")


@dataclass(frozen=True)
class Positions:
    """A rule that turns a sequence length into increasing token positions."""

    rule: str
    count: int = 0
    seed: int = 0

    def rows(self, length: int) -> Tensor:
        """int64 [query]: the positions kept for a prompt of this many tokens."""
        if self.rule == "last":
            return torch.arange(max(0, length - self.count), length)
        if self.rule == "every":  # ends on the last token, which has the whole prompt before it
            return torch.arange((length - 1) % self.count, length, self.count)
        if self.rule == "random":
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + length)
            picked = torch.randperm(length, generator=generator)[: self.count]
            return picked.sort().values
        return torch.arange(length)


def parse(text: str, seed: int = 0, option: str = "--positions") -> Positions:
    """The rule that a command line spells after `option`. Raises InputError for anything else."""
    rule, _, count = text.partition(":")
    if rule == "all" and not count:
        return Positions("all")
    if rule in RULES[:3] and count.isdecimal() and int(count) > 0:
        return Positions(rule, int(count), seed)
    raise InputError(f"{option} {text!r}: expected last:N, every:N, random:N (N 1 or more) or all")


def parse_layers(text: str | None, total: int) -> list[int]:
    """`0,3,10-20` as increasing layer numbers below `total`; all of them for None.

    Raises InputError for anything else, naming the piece.
    """
    if text is None or text == "all":
        return list(range(total))
    chosen: set[int] = set()
    for piece in text.split(","):
        first, dash, last = piece.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(f"--layers {text!r}: {piece!r} is no layer or range; write 0,3,10-20")
        span = range(int(first), int(last or first) + 1)
        if not span:
            raise InputError(f"--layers {text!r}: the range {piece!r} runs backwards")
        if span[-1] >= total:
            raise InputError(
                f"--layers {text!r}: layer {span[-1]} is out of range; the model has layers 0 to "
                f"{total - 1}"
            )
        chosen.update(span)
    return sorted(chosen)
