"""Evaluation samples drawn ahead by worker processes, so that a GPU need not wait for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from indexer_lab.tasks import Sample
from indexer_lab.tasks.plant import Ruler
from indexer_lab.tasks.prompts import numbered, ruler_of


@dataclass(frozen=True)
class Examples(Dataset[Sample]):
    """The samples that `prompts(task, tokenizer, length, count, seed)` gives, by number."""

    task: str
    tokenizer: PreTrainedTokenizerFast
    length: int
    count: int
    seed: int

    @cached_property
    def ruler(self) -> Ruler:
        """Made where it is used: it cannot be sent to another process."""
        return ruler_of(self.tokenizer)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return numbered(self.task, self.ruler, self.length, index, self.seed)


def examples(
    task: str, tokenizer: PreTrainedTokenizerFast, length: int, count: int, seed: int,
    workers: int = 0,
) -> Iterable[Sample]:  # fmt: skip
    """`count` samples in order, drawn by so many processes; 0 draws each when it is asked for."""
    held = Examples(task, tokenizer, length, count, seed)
    return DataLoader(held, batch_size=None, num_workers=workers)
