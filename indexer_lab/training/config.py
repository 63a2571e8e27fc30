"""A training plan: what a YAML file under analyses/training/ says, checked on reading."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from indexer_lab.errors import InputError, unknown_name
from indexer_lab.training.plan_check import check


@dataclass(frozen=True)
class Phase:
    """Steps at one length: `length` tokens a sequence, `batch` sequences a step and process."""

    length: int
    batch: int
    steps: int


@dataclass(frozen=True)
class Plan:
    """One training stage.

    phases:   run one after the other; together they make one learning-rate schedule.
    lr:       peak learning rate, of Muon for matrices and of AdamW for the rest.
    warmup:   share of all steps over which lr rises from 0.
    decay:    share of all steps at the end over which lr falls to 0.
    clip:     largest norm of the gradient.
    seed:     decides every batch (and a new model's weights).
    tasks:    task → weight in the mixture.
    density:  share of a sequence that facts and questions may fill, at most; the rest is text.
    text:     share of the sequences that hold nothing but text.
    repeats:  share of the sequences that repeat a passage of random tokens, which teaches to look
              up what followed before; for the first steps of a new model.
    close:    share of the samples whose lines are planted close together (`tasks.plant`).
    answers:  weight of the loss on answers beside the loss on text.
    indexer_lr: peak learning rate of the indexer in indexer-sparse.
    budget:   keys an indexer selects while it trains; by default the model's own index_topk.
    stride:   every how many queries the indexer learns from one in indexer-warmup.
    save:     seconds between checkpoints.
    compile:  compile the model's layers with torch.compile.
    workers:  processes that draw batches ahead; 0 draws each when its step begins.
    model:    for a new model: family and its configuration.
    tokenizer: for a new tokenizer: vocabulary size and number of training files.
    """

    phases: tuple[Phase, ...]
    lr: float
    tasks: dict[str, float]
    warmup: float = 0.02
    decay: float = 0.5
    clip: float = 1.0
    seed: int = 0
    density: float = 0.5
    text: float = 0.1
    repeats: float = 0.0
    close: float = 0.0
    answers: float = 1.0
    indexer_lr: float = 1e-3
    budget: int | None = None
    stride: int = 4
    save: float = 120.0
    compile: bool = False
    workers: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, int] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    def phase(self, step: int) -> Phase:
        """The phase of a step, counted from 0. Raises IndexError from `steps` on."""
        left = step
        for phase in self.phases:
            if left < phase.steps:
                return phase
            left -= phase.steps
        raise IndexError(f"step {step} is beyond the plan's {self.steps}")


def read_plan(path: str | Path) -> Plan:
    """A plan from YAML. Raises InputError for a missing file, an unknown key or a bad value."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot read the training plan {path}: {reason}") from error
    return plan_of(content, str(path))


def plan_of(content: Any, source: str = "plan") -> Plan:
    """A plan from the content of a YAML file; `source` names it in errors."""
    if not isinstance(content, dict):
        raise InputError(f"{source}: expected keys and values, found {type(content).__name__}")
    known = {entry.name for entry in fields(Plan)}
    for key in content:
        if key not in known:
            raise unknown_name(f"key in {source}", str(key), known)
    for key in ("phases", "lr", "tasks"):
        if key not in content:
            raise InputError(f"{source} has no {key!r}: see the plans under analyses/training")
    check(content, source)
    phases = tuple(Phase(**phase) for phase in content["phases"])
    return Plan(**{**content, "phases": phases})
