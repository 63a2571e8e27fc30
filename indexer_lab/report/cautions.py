"""What a reader must know before believing a number: one sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from indexer_lab.report.content import Picture, percent, plural
from indexer_lab.report.runs import Run
from indexer_lab.report.words import FEW
from indexer_lab.store.files import digest

MANY_TRIVIAL = 0.25
NOT_PLACES = {
    "duplicates": "the same key twice",
    "future": "keys that the query may not see",
    "out_of_range": "keys that do not exist",
}
WITHOUT = {
    "output_error": "the capture was taken without --values",
}


def cautions(runs: list[Run]) -> list[str]:
    """Every warning that these folders give, the gravest first, each once."""
    found = _of_whom([(run, problem) for run in runs for problem in run.problems])
    found += _of_whom([(run, text) for run in runs for text in _of_run(run)])
    found += _of_origins(runs)
    found += _of_ancestry(runs)
    return list(dict.fromkeys(found))


def _of_whom(told: list[tuple[Run, str]]) -> list[str]:
    """Each warning once, after the names of the folders that it is about."""
    names: dict[str, list[str]] = {}
    for run, text in told:
        names.setdefault(text, []).append(run.path.name)
    return [f"{', '.join(dict.fromkeys(about))}: {text}" for text, about in names.items()]


def _of_run(run: Run) -> Iterator[str]:
    if "scores" in run.frames:
        yield from _of_scores(run.frames["scores"])
    if "quality" in run.frames:
        yield from _few(run.frames["quality"]["sample"].nunique())
    notes = run.manifest.get("notes")
    if run.kind == "relate" and isinstance(notes, dict):
        yield from _of_notes(notes)


def _of_scores(frame: pd.DataFrame) -> Iterator[str]:
    yield from _few(frame["sample"].nunique())
    for budget, share in frame.groupby("budget")["trivial"].mean().items():
        if share == 1:
            yield f"At {budget} keys all rows are trivial: nothing at this budget counts."
        elif share > MANY_TRIVIAL:
            yield (
                f"At {budget} keys {percent(share)} of the rows see no more keys than the budget; "
                "they are left out of every number, and what is left may not be typical."
            )
    counted = frame[~frame["trivial"]]
    for name in ("recall", "mass", "output_error"):
        missing = int(counted[name].isna().sum())
        if missing == len(counted) and missing:
            why = f": {WITHOUT[name]}" if name in WITHOUT else ""
            yield f"Column {name} holds no number in any of {plural(missing, 'row')}{why}."
        elif missing:
            yield f"Column {name} holds no number in {missing:,} of {plural(len(counted), 'row')}."
    for name, what in NOT_PLACES.items():
        bad = counted[counted[name] > 0]
        for selector, rows in bad.groupby(bad["selector"].astype(str)):
            yield f"{selector} picks {what} in {plural(len(rows), 'row')}."


def _few(prompts: int) -> Iterator[str]:
    if prompts < FEW:
        yield (
            f"{plural(prompts, 'prompt')} alone: rows of one prompt share its text, so nothing "
            f"here can be generalised; take {FEW} or more."
        )


def _of_notes(notes: dict[str, Any]) -> Iterator[str]:
    prompts = notes.get("prompts")
    if isinstance(prompts, int):
        yield from _few(prompts)
    for name, what in (
        ("quality rows without scores", "runs of the model have no scores beside them"),
        ("scores without quality rows", "scored selections were never run on the model"),
        ("rows without an answer", "runs have no answer to judge"),
    ):
        count = notes.get(name)
        if isinstance(count, int) and count:
            yield f"{count:,} {what}, and are in no relation."


def _of_origins(runs: list[Run]) -> Iterator[str]:
    changed = [run for run in runs if str(run.origin.get("commit") or "").endswith("-dirty")]
    yield from _of_whom(
        [(run, "Made from a checkout with changes that no commit holds.") for run in changed]
    )
    models = {str(run.manifest["model"]) for run in runs if "model" in run.manifest}
    if len(models) > 1:
        yield f"These folders are of different models: {', '.join(sorted(models))}."
    for package in ("torch", "transformers"):
        known = {
            str(run.origin["versions"][package])
            for run in runs
            if package in (run.origin.get("versions") or {})
        }
        if len(known) > 1:
            yield f"These folders were made with different versions of {package}: " + (
                f"{', '.join(sorted(known))}."
            )


def _of_ancestry(runs: list[Run]) -> Iterator[str]:
    """Folders that were made from another capture, score run or quality run than those given."""
    held = {
        kind: {digest(run.manifest) for run in runs if run.kind == kind}
        for kind in ("capture", "scores", "quality")
    }
    for run in runs:
        parents = {"scores": ("capture",), "relate": ("scores", "quality")}.get(run.kind, ())
        for parent in parents:
            if held[parent] and run.manifest.get(parent) not in held[parent]:
                yield f"{run.path.name} was made from another {parent} folder than the one here."
        for picture in run.pictures:
            if (other := _stranger(picture, held)) is not None:
                yield f"{run.path.name} holds figures of another {other} folder than the one here."


def _stranger(picture: Picture, held: dict[str, set[str]]) -> str | None:
    for parent in ("scores", "quality"):
        inputs = picture.origin.get("inputs")
        made_from = inputs.get(parent) if isinstance(inputs, dict) else None
        if isinstance(made_from, str) and held[parent] and made_from not in held[parent]:
            return parent
    return None
