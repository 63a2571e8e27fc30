"""The keys that a smaller model looked at while it drafted the next tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Cost, Ranker, ScoreRanker, Support
from indexer_lab.selectors.exact import Exact
from indexer_lab.selectors.nucleus import nucleus
from indexer_lab.selectors.spec_map import head_mean, read_map
from indexer_lab.selectors.steps import need_every_step
from indexer_probes.records import LayerRecord

if TYPE_CHECKING:
    from indexer_lab.selectors.spec_follow import SpecFollower


@dataclass(frozen=True)
class SpecAttn:
    """The union of what `gamma` drafting steps attended to, in the draft layer most alike.

    Layer j of the model reads layer f(j) of the draft. Of each step's attention, averaged over
    heads, the keys stay that hold a share p of it; the steps of a round are united, and every query
    of the round attends to the union, as far as it may see it. One set serves all heads.
    draft: for `score` a capture of the draft on the same prompts and positions; for `quality` a
           model's name or folder.
    p:     share of a step's attention that stays.
    gamma: steps in a round; rounds begin at the first query.
    exit:  draft with the first so many layers alone, 0 for all: an earlier-stopped model.
    layer_map: f as a file with a JSON list, a draft layer for each layer; or, for `score`, a
           capture of the model on which f is calibrated. `quality` can do without: it calibrates f
           on each prompt's own last queries.
    dense: first layers that see every key in a live run. A budget cannot hold them, so that a score
           table ranks them as all others.
    The budget caps a union: the keys of most draft attention stay. A union may be smaller; with
    p = 1 it never is. In a score table, as in a replay, the drafted tokens are the text's own:
    every draft is right.
    Source: SpecAttn (arXiv 2510.27641), p 0.95, 2 dense layers.
    """

    draft: str
    p: float = 0.95
    gamma: int = 4
    exit: int = 0
    layer_map: str = ""
    dense: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise ValueError(f"p = {self.p}; expected a share over 0 and up to 1")
        if self.gamma < 1:
            raise ValueError(f"gamma = {self.gamma}; expected 1 step or more")
        for name in ("exit", "dense"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}; expected 0 or more layers")

    def fit(self, record: LayerRecord) -> Ranker:
        raise InputError(
            "selector 'spec_attn' reads another model's attention to the same text, which a record "
            "alone does not name: use SpecAttn(...).of_sample(id), or follow() live"
        )

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """nan: the draft's cost is known where its capture is."""
        return Cost(bytes_read=float("nan"), multiply_adds=float("nan"))

    def of_sample(self, sample: str) -> OfSample:
        return OfSample(self, sample)

    def follow(self) -> SpecFollower:
        from indexer_lab.selectors.spec_follow import SpecFollower

        return SpecFollower(self)

    def kept(self, weights: Tensor) -> Tensor:
        """float32 like [row, key], hidden keys at -inf: what stays of each step's attention."""
        return weights.masked_fill(~nucleus(weights, self.p), float("-inf"))

    def united(self, weights: Tensor) -> Tensor:
        """float32 like [row, key]: each key's most weight in the round, -inf outside the union.

        weights: whole rounds from the first row on, the last one perhaps cut short.
        """
        rounds = self.kept(weights).split(self.gamma)
        return torch.cat([each.amax(0, keepdim=True).expand_as(each) for each in rounds])


@dataclass(frozen=True)
class OfSample:
    """The selector on one sample of the draft's capture."""

    settings: SpecAttn
    sample: str

    def fit(self, record: LayerRecord) -> Ranker:
        need_every_step(record, "spec_attn")
        drafted, settings = self._drafted(record), self.settings
        gamma = settings.gamma

        def score(rows: slice) -> Tensor:
            start = rows.start // gamma * gamma
            stop = min(-(-rows.stop // gamma) * gamma, record.rows)
            united = settings.united(head_mean(drafted, slice(start, stop)))
            return united[rows.start - start : rows.stop - start][None]

        width = 2 * max(record.heads, drafted.heads) * gamma
        return _Unscored(ScoreRanker(record, score, 1, width=width))

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """One step of the draft's own attention in the layer that is read: all its keys once."""
        return Exact().cost(self._drafted(record), budget)

    def _drafted(self, record: LayerRecord) -> LayerRecord:
        """The draft's record of the layer that this one reads, on its device."""
        from indexer_lab.store.capture import open_capture

        settings = self.settings
        capture = open_capture(Path(settings.draft))
        if not settings.layer_map:
            raise InputError(
                "selector 'spec_attn' needs layer_map=…: a JSON list of draft layers, or a capture "
                "of the scored model to calibrate it on"
            )
        mapped = read_map(settings.layer_map, settings.draft, settings.exit)
        if record.layer >= len(mapped) or mapped[record.layer] not in capture.layers:
            raise InputError(
                f"layer_map={settings.layer_map!r} is {list(mapped)}: it names no layer of "
                f"{capture.path} (layers {capture.layers}) for layer {record.layer}"
            )
        samples = [each for each in capture.samples if each.id == self.sample]
        if not samples:
            raise InputError(f"{capture.path} holds no sample {self.sample!r}: other prompts?")
        drafted = capture.record(samples[0], mapped[record.layer]).to(record.queries.device)
        _need_same_text(drafted, record, capture.path)
        return drafted


@dataclass(frozen=True)
class _Unscored:
    """Ranks by scores that say nothing of the keys outside the union."""

    ranker: ScoreRanker

    def scores(self, rows: slice) -> Tensor | None:
        return None

    def top(self, budget: int) -> Support:
        return self.ranker.top(budget)


def _need_same_text(drafted: LayerRecord, record: LayerRecord, path: Path) -> None:
    same = drafted.length == record.length and torch.equal(drafted.positions, record.positions)
    if not same:
        raise InputError(
            f"{path} holds {drafted.length} tokens and {drafted.rows} queries where the scored "
            f"capture holds {record.length} and {record.rows}: capture the draft with the same "
            "prompts, tokenizer and --positions"
        )
