"""The training loop: any objective, with checkpoints, resume, a loss curve and progress."""

from __future__ import annotations

import csv
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.optim import Optimizer

from indexer_lab.errors import InputError
from indexer_lab.training.config import Plan
from indexer_lab.training.data import Batch, Stream, ahead
from indexer_lab.training.layers import compiled
from indexer_lab.training.optimizer import clip, rate, set_rate
from indexer_lab.training.processes import any_process, mean_over_processes

Objective = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
STATE = "state.pt"
CURVE = "curve.csv"


class Trainer:
    """Runs a plan's steps over an objective.

    model:      whose trainable parameters are saved and averaged over processes.
    objective:  batch → (loss to minimise, parts to report); it runs the model itself.
    optimizers: hold the parameters that learn.
    folder:     gets state.pt (for resuming) and curve.csv.
    quiet:      no progress on the terminal.
    """

    def __init__(
        self, plan: Plan, model: nn.Module, objective: Objective, optimizers: list[Optimizer],
        stream: Stream, folder: Path, quiet: bool = False,
    ) -> None:  # fmt: skip
        self.plan, self.model, self.optimizers = plan, model, optimizers
        self.objective = objective
        self.stream, self.folder, self.quiet = stream, folder, quiet
        self.processes = PartialState()
        self.step = 0
        self.spent = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, resume: bool = False, limit: float = math.inf) -> None:
        """Trains to the plan's last step, or until `limit` seconds are over.

        Raises InputError when the folder holds an unfinished run and `resume` is false.
        """
        self._begin(resume)
        with compiled(self.model, self.plan.compile):
            self._steps(limit)
        self.save()
        if self.processes.is_main_process and sys.stderr.isatty() and not self.quiet:
            print(file=sys.stderr)

    def _steps(self, limit: float) -> None:
        saved = started = begin = time.monotonic()
        for batch in ahead(self.stream, self.step, self.processes.process_index):
            parts = self._train_step(batch)
            now = time.monotonic()
            self.spent += now - begin
            self._report(parts, now - begin)
            begin = now
            if limit < math.inf and any_process(now - started > limit):
                return
            if now - saved > self.plan.save:
                self.save()
                saved = now

    def _train_step(self, batch: Batch) -> dict[str, float]:
        plan = self.plan
        share = rate(self.step, plan.steps, plan.warmup, plan.decay)
        set_rate(self.optimizers, share)
        loss, parts = self.objective(batch.to(next(self.model.parameters()).device))
        loss.backward()
        self._average()
        norm = clip(self.optimizers, plan.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        values = {"loss": loss, **parts, "norm": norm}
        means = mean_over_processes(
            torch.stack([value.detach().float() for value in values.values()])
        )
        return {"lr": share * plan.lr, **dict(zip(values, means.tolist(), strict=True))}

    def _average(self) -> None:
        """Gradients averaged over processes, all in one exchange."""
        if self.processes.num_processes == 1:
            return
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        mean = mean_over_processes(torch.cat([grad.flatten() for grad in grads]))
        for grad, part in zip(grads, mean.split([g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def _begin(self, resume: bool) -> None:
        state = self.folder / STATE
        if not state.exists():
            if self.processes.is_main_process:
                (self.folder / CURVE).unlink(missing_ok=True)
            return
        if not resume:
            raise InputError(f"{self.folder} holds a run already: use --resume or another folder")
        content = torch.load(state, weights_only=True, map_location="cpu")
        self.step, self.spent = content["step"], content["spent"]
        self.model.load_state_dict(content["model"])
        for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.processes.is_main_process:
            self._cut_curve()

    def _cut_curve(self) -> None:
        """Drops the curve's rows after the checkpoint: those steps are run again."""
        path = self.folder / CURVE
        if path.exists():
            rows = path.read_text().splitlines(keepends=True)
            path.write_text("".join(rows[: 1 + self.step]))

    def save(self) -> None:
        """Writes the state to resume from: whole, or not at all."""
        if not self.processes.is_main_process:
            return
        content: dict[str, Any] = {
            "step": self.step,
            "spent": self.spent,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        unfinished = self.folder / f"{STATE}.part"
        torch.save(content, unfinished)
        os.replace(unfinished, self.folder / STATE)

    def _report(self, parts: dict[str, float], seconds: float) -> None:
        if not self.processes.is_main_process:
            return
        phase = self.plan.phase(self.step - 1)
        tokens = phase.length * phase.batch * self.processes.num_processes
        row = {"step": self.step, "length": phase.length, "seconds": self.spent, **parts}
        path = self.folder / CURVE
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow({name: _short(value) for name, value in row.items()})
        if not self.quiet and sys.stderr.isatty():
            left = (self.plan.steps - self.step) * self.spent / self.step
            shown = " ".join(f"{name} {value:.3g}" for name, value in parts.items())
            print(
                f"\r{self.step}/{self.plan.steps} {shown} {tokens / seconds:.0f} tokens/s "
                f"{left / 60:.1f} min left\033[K",
                end="",
                file=sys.stderr,
                flush=True,
            )


def last_row(folder: Path) -> dict[str, float]:
    """The last row of a run's loss curve. Raises InputError when no step was run."""
    path = folder / CURVE
    if not path.exists():
        raise InputError(f"{folder} has no steps: the plan asks for none, or its limit is too low")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: float(value) for name, value in rows[-1].items()}


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
