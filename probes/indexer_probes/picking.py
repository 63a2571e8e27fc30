"""An indexer's selection made by an engine, and the proof that it is the indexer's own.

On some rows of every chunk the model's own calls are made beside it: the form of the score that is
assumed, the mask, and the selection are all held against those rows. What the first chunk shows is
looked at there and then; the later chunks' findings stay on the device until `check`, so that
nothing waits for them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from indexer_probes.attention import spread
from indexer_probes.engine import Engine
from indexer_probes.errors import ProbeError
from indexer_probes.indexer import TOLERANCE, compact, proved
from indexer_probes.postponed import FinishedScores
from indexer_probes.records import IndexerRecord

PROOF_ROWS = 4


class Picker:
    """Picks for one layer on one prompt, chunk by chunk; `check` after the last one."""

    def __init__(self, engine: Engine, indexer: nn.Module, layer: int):
        self._engine = engine
        self._indexer = indexer
        self._layer = layer
        self._form: IndexerRecord | None = None
        self._off: list[Tensor] = []
        self._lossless: list[Tensor] = []

    def pick(self, finished: FinishedScores, k: int) -> tuple[Tensor, Tensor]:
        """float32 values and int64 units [1, query, k]: what topk would give for these queries."""
        record = self._operands(finished)
        rows, units = record.queries.shape[1], record.units
        positions = torch.arange(units - rows, units, device=record.keys.device)
        proof = spread(rows, PROOF_ROWS, positions.device)
        truth = finished.rows(proof)[0].float()
        hidden = torch.arange(units, device=positions.device) > positions[proof, None]
        if self._form is None:
            self._form = proved(
                record,
                self._indexer,
                self._layer,
                lambda variant: float(_off(variant.scores(proof), truth, hidden)),
            )
        form = replace(record, scale=self._form.scale, activation=self._form.activation)
        values, picked = self._engine.index_topk(
            form.queries, form.keys, form.weights, k,
            scale=form.scale, activation=form.activation, positions=positions,
        )  # fmt: skip
        self._off.append(_off(form.scores(proof), truth, hidden))
        self._off.append(_passed_over(truth, picked[proof], hidden))
        return values[None], picked[None]

    def check(self) -> None:
        """Raises ProbeError when a chunk did not bear out what the first one had shown."""
        if self._lossless and not bool(torch.stack(self._lossless).all()):
            raise ProbeError(
                f"layer {self._layer}: the indexer's operands change their precision in the middle "
                "of a prompt; capture with --backend torch"
            )
        worst = float(torch.stack(self._off).max()) if self._off else 0.0
        if not worst <= TOLERANCE:
            raise ProbeError(
                f"layer {self._layer}: the streamed selection is off the model's own scores by "
                f"{worst:.1%} of a row's largest; capture with --backend torch"
            )

    def _operands(self, finished: FinishedScores) -> IndexerRecord:
        """This chunk's operands, in the narrowest dtype that loses nothing."""
        queries = finished.scores.queries[0].transpose(0, 1)
        keys = finished.scores.keys[0, 0].mT
        if self._form is None:
            dtype = next(self._indexer.parameters()).dtype
            queries, keys = compact(queries, dtype), compact(keys, dtype)
            if queries.dtype != keys.dtype:
                queries, keys = queries.float(), keys.float()
        else:
            queries, keys = self._narrowed(queries), self._narrowed(keys)
        weights = finished.weights[0, :, 0].float()
        nothing = torch.empty(1, 0, 0, dtype=torch.int64)
        return IndexerRecord(queries, keys, weights, 1.0, nothing)

    def _narrowed(self, tensor: Tensor) -> Tensor:
        assert self._form is not None
        small = tensor.to(self._form.queries.dtype)
        self._lossless.append((small == tensor).all())
        return small


def _off(scores: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Largest difference over the visible units, as a share of its row's largest true score;
    infinite where the model hides other units than those after the query."""
    gap = (scores - truth).abs().masked_fill(hidden, 0.0).amax(-1)
    size = truth.abs().masked_fill(hidden, 0.0).amax(-1).clamp(min=1e-30)
    as_ours = (truth.isneginf() == hidden).all()
    return torch.where(as_ours, (gap / size).max(), float("inf"))


def _passed_over(truth: Tensor, picked: Tensor, hidden: Tensor) -> Tensor:
    """By how much a unit left out beats one that was picked, as a share of its row's largest score;
    infinite where a row picked a hidden unit, one twice, or fewer than it could."""
    row, units = truth.shape
    marks = torch.zeros(row, units + 1, device=truth.device)
    ones = torch.ones(picked.shape, device=truth.device)
    marks = marks.scatter_add_(-1, picked.masked_fill(picked < 0, units), ones)[:, :units]
    expected = (~hidden).sum(-1).clamp(max=picked.shape[-1])
    right = (marks <= 1).all() & (marks.sum(-1) == expected).all() & ~(hidden & (marks > 0)).any()
    least = truth.masked_fill(marks == 0, float("inf")).amin(-1)
    most = truth.masked_fill((marks > 0) | hidden, float("-inf")).amax(-1)
    size = truth.abs().masked_fill(hidden, 0.0).amax(-1).clamp(min=1e-30)
    return torch.where(right, ((most - least) / size).clamp(min=0.0).max(), float("inf"))
