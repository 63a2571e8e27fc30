"""Selectors held against a target, row by row: layer records in, the score table out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from indexer_lab.backend import Backend, kernel_record
from indexer_lab.errors import InputError
from indexer_lab.measures import FACTS, MEASURES, Answer, Block, Ground
from indexer_lab.selectors import Selector, on_backend, selector
from indexer_lab.selectors.sample import of_sample
from indexer_lab.store.capture import SampleInfo
from indexer_lab.targets import Target, target
from indexer_probes.records import LayerRecord

if TYPE_CHECKING:
    from indexer_lab.kernel_record import KernelRecord

BASELINES = ("exact", "random", "sink_recent")


@dataclass(frozen=True)
class Question:
    """What one scoring run asks of every layer record.

    selectors: as spelled on the command line; the baselines are always asked too.
    budgets:   keys allowed per query, increasing.
    targets:   names from TARGETS.
    backend:   computes targets, measures and the selectors that have kernels.
    """

    selectors: tuple[str, ...]
    budgets: tuple[int, ...]
    targets: tuple[str, ...]
    backend: Backend = "auto"

    @property
    def deepest(self) -> int:
        """The largest top-k asked for: the boundary gap looks one place past the largest budget."""
        return max(self.budgets) + 1

    def labels(self) -> list[str]:
        """Every selector to score, baselines first, each once."""
        return list(dict.fromkeys((*BASELINES, *self.selectors)))

    def make(self, label: str, goal: Target) -> Selector:
        """The selector of a label; a plain `exact` is exact for the target it is held against."""
        made = selector(f"exact:{goal.name}" if label == "exact" else label)
        return on_backend(made, self.backend)


STRINGS = ("sample", "task", "selector", "target", "level")
INTEGERS = ("length", "layer", "head", "position", "visible", "budget", "sets")

SCHEMA = pa.schema(
    [(name, pa.dictionary(pa.int32(), pa.string())) for name in STRINGS]
    + [(name, pa.int32()) for name in INTEGERS]
    + [("trivial", pa.bool_())]
    + [(name, pa.float32()) for name in (*MEASURES, *FACTS)]
    + [(name, pa.float64()) for name in ("bytes_read", "multiply_adds")]
)
"""One row per sample x layer x head x query row x selector x budget x target; docs/tables.md."""


def score_record(record: LayerRecord, sample: SampleInfo, question: Question) -> pa.Table:
    """The score table of one sample and layer.

    Raises InputError when a selector does not fit the record, or the backend cannot run.
    """
    kernels = kernel_record(record, question.backend, question.deepest)
    tables = [
        _table(record, sample, row)
        for name in question.targets
        for row in _results(record, target(name), question, kernels, sample)
    ]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


@dataclass(frozen=True)
class _Result:
    label: str
    target: str
    budget: int
    sets: int
    block: Block
    numbers: dict[str, Tensor]  # [head, row] each
    cost: dict[str, float]


def _results(
    record: LayerRecord,
    goal: Target,
    question: Question,
    kernels: KernelRecord | None,
    sample: SampleInfo,
) -> Iterator[_Result]:
    chosen = {
        label: of_sample(question.make(label, goal), sample.id) for label in question.labels()
    }
    rankers = {label: made.fit(record) for label, made in chosen.items()}
    largest = max(question.budgets)
    for ranker in rankers.values():
        ranker.top(largest)  # ranks once; the smaller budgets below read the same ranking
    exact = None if kernels is None or goal.kernel is None else goal.kernel(kernels, largest + 1)
    for rows in record.chunks():
        block = Block(record, rows, kernels)
        ground = Ground(block, goal, largest, exact)
        facts = {name: fact(block) for name, fact in FACTS.items()}
        for label, ranker in rankers.items():
            scores = ranker.scores(rows)
            for budget in question.budgets:
                support = ranker.top(budget)[:, rows]
                answer = Answer(ground, support, scores, budget)
                numbers = {name: measure(answer) for name, measure in MEASURES.items()}
                yield _Result(
                    label, goal.name, budget, len(support), block, {**facts, **numbers},
                    vars(chosen[label].cost(record, budget)),
                )  # fmt: skip


def _table(record: LayerRecord, sample: SampleInfo, result: _Result) -> pa.Table:
    heads, rows = record.heads, len(result.block.positions)
    visible = result.block.visible.cpu().numpy()
    positions = result.block.positions.cpu().numpy().astype(np.int32)
    columns: dict[str, object] = {
        "sample": _same(sample.id, heads * rows),
        "task": _same(sample.task, heads * rows),
        "selector": _same(result.label, heads * rows),
        "target": _same(result.target, heads * rows),
        "level": _same("token", heads * rows),
        "length": np.full(heads * rows, record.length, np.int32),
        "layer": np.full(heads * rows, record.layer, np.int32),
        "head": np.repeat(np.arange(heads, dtype=np.int32), rows),
        "position": np.tile(positions, heads),
        "visible": np.tile(visible.astype(np.int32), heads),
        "budget": np.full(heads * rows, result.budget, np.int32),
        "sets": np.full(heads * rows, result.sets, np.int32),
        "trivial": np.tile(visible <= result.budget, heads),
    }
    for name, numbers in result.numbers.items():
        columns[name] = numbers.to(torch.float32).reshape(-1).cpu().numpy()
    for name, value in result.cost.items():
        columns[name] = np.full(heads * rows, value, np.float64)
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


def _same(value: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [value])


def check_budgets(budgets: Sequence[int], longest: int) -> tuple[int, ...]:
    """The budgets in increasing order, each once. Raises InputError for an impossible one."""
    for budget in budgets:
        if budget < 1:
            raise InputError(f"--budget {budget}: a selector needs at least one key per query")
        if budget > longest:
            raise InputError(
                f"--budget {budget} is over the {longest} keys of the longest sample: every row "
                "would be trivial; ask for less"
            )
    return tuple(sorted(set(budgets)))
