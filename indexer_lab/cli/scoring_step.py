"""The scoring step: a capture in, score parts out, resumable at every sample and layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from indexer_lab import __version__
from indexer_lab.backend import Backend, device_named, too_many, use_kernels, working_on
from indexer_lab.cli.options import numbers
from indexer_lab.errors import InputError, unknown_name
from indexer_lab.measures import FACTS, MEASURES
from indexer_lab.positions import parse_layers
from indexer_lab.progress import progress
from indexer_lab.scoring import Question, check_budgets, score_record
from indexer_lab.selectors import selector
from indexer_lab.selectors.reuse import source
from indexer_lab.selectors.sample import of_sample
from indexer_lab.store.capture import Capture, open_capture
from indexer_lab.store.files import digest
from indexer_lab.store.records import finite
from indexer_lab.store.scores import Scores, create
from indexer_lab.targets import default_target, target
from indexer_probes.records import LayerRecord


def score_step(
    *,
    capture: Path,
    output: Path,
    selectors: tuple[str, ...] = (),
    budgets: str = "256",
    targets: tuple[str, ...] = (),
    layers: str | None = None,
    limit: int | None = None,
    device: str = "cpu",
    backend: Backend = "auto",
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> Scores:
    """Scores every sample and layer that is not on disk yet; see `score --help`."""
    taken, place = open_capture(capture), device_named(device)
    samples = taken.samples[:limit]
    chosen = _layers(taken, layers)
    with working_on(place):
        question = _question(taken, chosen, selectors, budgets, targets, backend, place)
        facts = _manifest(taken, question, chosen, len(samples), place)
        scores = create(output, facts, resume, force)
        with progress("score", len(samples) * len(chosen), quiet or as_json) as advance:
            for sample in samples:
                for layer in chosen:
                    if not scores.part(sample, layer).exists():
                        record = taken.record(sample, layer).to(place)
                        finite(record)
                        scores.save(sample, layer, score_record(record, sample, question))
                    advance(f"{sample.id}, layer {layer}")
    return scores


def _question(
    taken: Capture,
    layers: list[int],
    selectors: tuple[str, ...],
    budgets: str,
    targets: tuple[str, ...],
    backend: Backend,
    place: torch.device,
) -> Question:
    """The checked question: every name and number is refused here, before anything is written."""
    longest = max(sample.length for sample in taken.samples)
    first = _first(taken, place)
    names = targets or (default_target(first),)
    goals = [target(name) for name in names]
    question = Question(
        tuple(selectors), check_budgets(numbers("--budget", budgets), longest), names, backend
    )
    _check_sources(question, taken, layers)
    sample = taken.samples[0].id
    for label in question.labels():
        of_sample(question.make(label, goals[0]), sample).fit(first)
    return question


def _check_sources(question: Question, taken: Capture, layers: list[int]) -> None:
    """Raises InputError where a selector takes over the selection of a layer not captured."""
    for label in question.labels():
        made = selector(label)
        for layer in layers:
            needed = source(made, layer)
            if needed not in taken.layers:
                have = ", ".join(map(str, taken.layers))
                raise InputError(
                    f"selector {label!r}: layer {layer} takes the selection of layer {needed}, "
                    f"which was not captured; captured are {have}"
                )


def _first(taken: Capture, place: torch.device) -> LayerRecord:
    """A record to try the question on: the first one with an indexer, else the first."""
    for layer in taken.layers:
        record = taken.record(taken.samples[0], layer)
        if record.indexer is not None:
            return record.to(place)
    return taken.record(taken.samples[0], taken.layers[0]).to(place)


def _layers(taken: Capture, text: str | None) -> list[int]:
    if text is None:
        return taken.layers
    asked = parse_layers(text, max(taken.layers) + 1)
    absent = [layer for layer in asked if layer not in taken.layers]
    if absent:
        have = ", ".join(map(str, taken.layers))
        raise InputError(
            f"--layers {text!r}: layer {absent[0]} was not captured; captured are {have}"
        )
    return asked


def _manifest(
    taken: Capture, question: Question, layers: list[int], samples: int, place: torch.device
) -> dict[str, Any]:
    """What identifies the run. Device and backend are named where they are not CPU and torch."""
    facts = {
        "indexer_lab": __version__,
        "capture": digest(taken.manifest),
        "model": taken.manifest["model"],
        "selectors": question.labels(),
        "budgets": list(question.budgets),
        "targets": list(question.targets),
        "layers": layers,
        "samples": samples,
    }
    longest = max(sample.length for sample in taken.samples)
    kernels = use_kernels(question.backend, place, too_many(question.deepest, longest))
    if place.type != "cpu" or kernels:
        facts |= {"device": place.type, "backend": "triton" if kernels else "torch"}
    return facts


def measures_named(text: str) -> list[str]:
    """`recall,mass` as measure names. Raises InputError for an unknown one."""
    names = [piece.strip() for piece in text.split(",")]
    for name in names:
        if name not in MEASURES and name not in FACTS:
            raise unknown_name("measure", name, [*MEASURES, *FACTS])
    return names
