"""One sample before a model: its prompt's cache, what its dense run gave, and its rows so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from torch import Tensor
from transformers import DynamicCache

from indexer_lab.capturing import Encoded
from indexer_lab.quality.entropies import Entropies
from indexer_lab.quality.trial import DENSE, Trial
from indexer_lab.selectors import selector
from indexer_lab.selectors.following import Follower, follower
from indexer_lab.store.quality import SCHEMA, SPEED, Sheets
from indexer_lab.tasks.episode import says

NAN = float("nan")


@dataclass
class Subject:
    """One sample under test.

    tokenizer: None when the prompts came as ids; then there is no text to score.
    entropies: where the rows of its attention go; None when they were not asked for.
    cache:     of the dense prompt but its last token.
    forced:    the tokens that a replay predicts: a text's own, else what the dense run answers.
    truth:     float32 [token, vocabulary], the dense log-probabilities over `forced`.
    """

    model: Any
    tokenizer: Any
    encoded: Encoded
    entropies: Entropies | None = None
    cache: DynamicCache | None = None
    forced: list[int] = field(default_factory=list)
    truth: Tensor | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    speeds: list[dict[str, Any]] = field(default_factory=list)
    _built: dict[str, Follower] = field(default_factory=dict)

    @property
    def prompt(self) -> Tensor:
        """int64 [token]"""
        return self.encoded.ids[: self.encoded.given]

    @property
    def last(self) -> int:
        """The prompt's last token, whose query is the first that selects."""
        return int(self.prompt[-1])

    @property
    def is_text(self) -> bool:
        """Whether it has tokens of its own to predict and no answer to give."""
        return self.encoded.predicted > 0

    def follower(self, trial: Trial) -> Follower:
        """The trial's selector; what it builds on the dense prompt is built once a sample."""
        label = "exact" if trial.selector == DENSE else trial.selector
        if trial.own_prompt:
            return follower(selector(label))
        if label not in self._built:
            self._built[label] = follower(selector(label))
        return self._built[label].again()

    def ends(self, made: list[int]) -> bool:
        """Whether the answer is over: an end token, or the end of its line."""
        ends = self.model.generation_config.eos_token_id
        if ends is not None and made[-1] in (ends if isinstance(ends, list) else [ends]):
            return True
        return self.tokenizer is not None and "\n" in self._text(made).lstrip(" ")

    def score(self, made: list[int]) -> float:
        """1 for the right answer, 0 for another; nan where there is none to compare with."""
        if self.tokenizer is None or not self.encoded.info.answer:
            return NAN
        return float(says(self._text(made)) == self.encoded.info.answer)

    def note(
        self, trial: Trial, numbers: dict[str, float], seconds: float, side: list[int]
    ) -> None:
        """Takes down a trial's row and its speed.

        side: tokens of the sequences that ran side by side, this one's among them.
        """
        if self.entropies is not None:
            self.entropies.finish(int(numbers["tokens"]))
        info = self.encoded.info
        facts = {
            "sample": info.id,
            "task": info.task,
            "mode": trial.mode,
            "selector": trial.selector,
            "length": info.length,
            "budget": trial.budget,
            "layer": trial.layer,
        }
        depth = info.needles[0][0] / info.length if info.needles else NAN
        self.rows.append({**facts, "depth": depth, **numbers})
        time = {"seconds": seconds, "tokens_per_second": sum(side) / seconds}
        self.speeds.append({**facts, "tokens": numbers["tokens"], "batch": len(side), **time})

    def sheets(self) -> Sheets:
        dense = {
            row["mode"]: row["tokens_per_second"] for row in self.speeds if row["selector"] == DENSE
        }
        beside = [{**row, "dense_tokens_per_second": dense[row["mode"]]} for row in self.speeds]
        return Sheets(
            pa.Table.from_pylist(self.rows, schema=SCHEMA),
            pa.Table.from_pylist(beside, schema=SPEED),
            None if self.entropies is None else self.entropies.table(),
        )

    def _text(self, made: list[int]) -> str:
        return str(self.tokenizer.decode(made, skip_special_tokens=True))
