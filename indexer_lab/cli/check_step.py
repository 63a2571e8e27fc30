"""The check step: score folders and gates in, rulings out."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from indexer_lab.cli.options import numbers
from indexer_lab.errors import InputError
from indexer_lab.gates.against import Tolerance, compare
from indexer_lab.gates.gate import Gate, Scope, finite, read, spelled, threshold
from indexer_lab.gates.judging import Ruling, judge
from indexer_lab.gates.rows import load
from indexer_lab.positions import parse_layers
from indexer_lab.store.scores import Scores, open_scores

COMPARED = ("recall", "mass", "output_error")
"""What a bare tolerance is for; output error only where both runs have it."""
MOST_LAYERS = 10_000


def check_step(
    *,
    scores: tuple[Path, ...],
    least: tuple[str, ...] = (),
    most: tuple[str, ...] = (),
    gates: Path | None = None,
    selectors: tuple[str, ...] = (),
    targets: tuple[str, ...] = (),
    budgets: str | None = None,
    layers: str | None = None,
    tasks: tuple[str, ...] = (),
    per: tuple[str, ...] = (),
    against: Path | None = None,
    tolerances: tuple[str, ...] = (),
    against_selector: str | None = None,
) -> list[tuple[str, Ruling]]:
    """Folder and ruling, for every folder, gate and case; see `check --help`."""
    scope = Scope(
        selectors or None,
        targets or None,
        None if budgets is None else tuple(numbers("--budget", budgets)),
        None if layers is None else tuple(parse_layers(layers, MOST_LAYERS)),
        tasks or None,
        tuple(dict.fromkeys(per)),
    )
    asked = [spelled("--min", text, scope) for text in least]
    asked += [spelled("--max", text, scope) for text in most]
    asked += read(gates, scope) if gates is not None else []
    if against is None and (tolerances or against_selector):
        raise InputError(
            "--tolerance and --against-selector need --against SCORES: worse than what?"
        )
    if not asked and against is None:
        raise InputError(
            "no gate: give --min, --max, --gates or --against; nothing asked is no pass"
        )
    found: list[tuple[str, Ruling]] = []
    for folder in scores:
        opened = open_scores(folder)
        found += [(str(folder), ruling) for ruling in _judged(opened, asked)]
        if against is not None:
            reference = open_scores(against)
            rulings = _compared(opened, reference, tolerances, scope, against_selector)
            found += [(str(folder), ruling) for ruling in rulings]
    return found


def _judged(opened: Scores, gates: list[Gate]) -> list[Ruling]:
    if not gates:
        return []
    frame = load(opened, [gate.measure for gate in gates])
    return [ruling for gate in gates for ruling in judge(frame, gate)]


def _compared(
    opened: Scores,
    reference: Scores,
    texts: tuple[str, ...],
    scope: Scope,
    selector: str | None,
) -> list[Ruling]:
    allowed = [each for text in texts or ("0",) for each in _tolerances(text)]
    measures = [tolerance.measure for tolerance in allowed]
    ours, theirs = load(opened, measures), load(reference, measures)
    bare = [text for text in texts or ("0",) if "=" not in text]
    if bare and (ours["output_error"].isna().all() or theirs["output_error"].isna().all()):
        named = {threshold("--tolerance", text)[0] for text in texts if "=" in text}
        if "output_error" not in named:
            allowed = [each for each in allowed if each.measure != "output_error"]
    return list(compare(ours, theirs, allowed, scope, selector))


def _tolerances(text: str) -> list[Tolerance]:
    if "=" in text:
        return [Tolerance(*threshold("--tolerance", text))]
    value = finite("--tolerance", text)
    return [Tolerance(measure, "mean", value) for measure in COMPARED]


def as_rows(rulings: list[tuple[str, Ruling]]) -> list[dict[str, Any]]:
    """Rulings in JSON's own types; what is not finite is null."""
    return [{"scores": name, **_plain(asdict(ruling))} for name, ruling in rulings]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
