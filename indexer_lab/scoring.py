"""Selectors held against a target, row by row: layer records in, the score table out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import nan

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from indexer_lab.backend import Backend, kernel_record
from indexer_lab.errors import InputError
from indexer_lab.measures import FACTS, MEASURES, Answer, Block, Ground
from indexer_lab.selectors import Selector, on_backend, selector
from indexer_lab.selectors.base import NoIndexer, Ranker, ranks_units
from indexer_lab.selectors.sample import of_sample
from indexer_lab.store.capture import SampleInfo
from indexer_lab.targets import Target, target
from indexer_lab.unit_level import UnitRecord, has_units, unit_record, unit_size
from indexer_probes.records import LayerRecord

OF_TOKENS = ("output_error", "output_bound", "recall_sink", "recall_local", "recall_far")
"""Measures that units do not have: an output is mixed of tokens' values, distances count tokens."""
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
INTEGERS = ("length", "layer", "indexer_layer", "head", "position", "visible", "budget", "sets")

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
    tables = [
        _table(record, sample, row)
        for level, seen, asked in _levels(record, question)
        for name in question.targets
        for row in _results(seen, target(name), asked, level, sample.id)
    ]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _levels(record: LayerRecord, question: Question) -> Iterator[tuple[str, LayerRecord, Question]]:
    """The record of tokens and, where its indexer selects units, of units: each with what to ask
    of it. A budget of units is the tokens' budget over a unit's tokens, rounded down; where the
    model's own selection is asked for, it is at most what that holds."""
    yield "token", record, question
    indexer = record.indexer
    if not has_units(record) or indexer is None:
        return
    size, most = unit_size(record), indexer.units
    if "native" in question.selectors:
        most = min(most, indexer.native.shape[-1])
    budgets = sorted({min(budget // size, most) for budget in question.budgets} - {0})
    labels = tuple(x for x in question.selectors if ranks_units(selector(x)))
    if budgets:
        yield (
            "unit",
            unit_record(record),
            replace(question, selectors=labels, budgets=tuple(budgets)),
        )


@dataclass(frozen=True)
class _Result:
    label: str
    target: str
    level: str
    budget: int
    sets: int
    block: Block
    numbers: dict[str, Tensor]  # [head, row] each
    cost: dict[str, float]


def _fitted(
    record: LayerRecord, goal: Target, question: Question, sample: str
) -> Iterator[tuple[str, Selector, Ranker]]:
    """Every selector that this layer can serve, fitted; those of an indexer only where there is
    one. Raises InputError for one that needs keys where not every token has its own."""
    for label in question.labels():
        made = of_sample(question.make(label, goal), sample)
        if record.entries is not None and not ranks_units(made):
            raise InputError(
                f"selector {label!r} ranks by the keys of tokens, and layer {record.layer} attends "
                "to compressed entries in the place of all but the latest; leave it out, or the "
                "layer with --layers"
            )
        with suppress(NoIndexer):
            yield label, made, made.fit(record)


def _results(
    record: LayerRecord, goal: Target, question: Question, level: str, sample: str
) -> Iterator[_Result]:
    kernels = kernel_record(record, question.backend, question.deepest)
    fitted = list(_fitted(record, goal, question, sample))
    rankers = {label: ranker for label, _, ranker in fitted}
    chosen = {label: made for label, made, _ in fitted}
    paid = record.base if isinstance(record, UnitRecord) else record
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
                if level == "unit":
                    numbers |= {name: torch.full_like(block.on_keys, nan) for name in OF_TOKENS}
                yield _Result(
                    label, goal.name, level, budget, len(support), block, {**facts, **numbers},
                    vars(chosen[label].cost(paid, budget)),
                )  # fmt: skip


def _table(record: LayerRecord, sample: SampleInfo, result: _Result) -> pa.Table:
    heads, rows = record.heads, len(result.block.positions)
    visible = result.block.visible.cpu().numpy()
    positions = record.positions[result.block.rows].cpu().numpy().astype(np.int32)
    source = _indexer_layer(record)
    columns: dict[str, object] = {
        "sample": _same(sample.id, heads * rows),
        "task": _same(sample.task, heads * rows),
        "selector": _same(result.label, heads * rows),
        "target": _same(result.target, heads * rows),
        "level": _same(result.level, heads * rows),
        "length": np.full(heads * rows, record.length, np.int32),
        "layer": np.full(heads * rows, record.layer, np.int32),
        "indexer_layer": np.full(heads * rows, source, np.int32),
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


def _indexer_layer(record: LayerRecord) -> int:
    """The layer whose indexer selects for this one, -1 where none does."""
    if record.indexer is None:
        return -1
    return record.layer if record.indexer.source is None else record.indexer.source


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
