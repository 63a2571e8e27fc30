"""A report's content, put together from its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from indexer_lab.report.cautions import cautions
from indexer_lab.report.content import Picture, Table, Verdict, plural
from indexer_lab.report.glossary import TERMS, selectors_meant, targets_meant
from indexer_lab.report.runs import Run
from indexer_lab.report.tables import prompts, tables, trivial_shares, waterfall_table
from indexer_lab.report.verdicts import verdicts
from indexer_lab.waterfall import Waterfall, waterfalls

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Fall:
    """A waterfall as bars: name, per cent from the left, per cent wide, what it says, kind."""

    title: str
    bars: list[tuple[str, float, float, str, str]]


@dataclass(frozen=True)
class Document:
    """All that a report says, in its order."""

    title: str
    asked: str
    gist: str
    facts: Facts
    verdicts: list[Verdict]
    cautions: list[str]
    pictures: list[Picture]
    falls: list[Fall]
    fall_table: Table | None
    tables: list[tuple[str, list[Table]]]
    trivial: list[Table]
    prompts: list[Table]
    origins: list[tuple[str, Facts]]
    commands: list[tuple[str, str]]
    terms: Facts


def document(runs: list[Run], pictures: Sequence[Picture], command: str) -> Document:
    """The report of these runs.

    pictures: figures drawn for this report, beside those that the runs hold.
    command:  the one that makes the report.
    """
    falls = [
        fall for run in runs if "scores" in run.frames for fall in waterfalls(run.frames["scores"])
    ]
    models = _known(runs, "model")
    return Document(
        title=f"Which keys were missed, and what did that cost? {', '.join(models)}".strip(),
        asked=_asked(runs),
        gist=_gist(runs),
        facts=_facts(runs),
        verdicts=sorted(
            (v for run in runs for v in verdicts(run)), key=lambda v: v.state == "measured"
        ),
        cautions=cautions(runs),
        pictures=[*(p for run in runs for p in run.pictures), *pictures],
        falls=[_fall(fall) for fall in _telling(falls)],
        fall_table=waterfall_table(falls) if falls else None,
        tables=[(run.path.name, found) for run in runs if (found := tables(run))],
        trivial=[sheet for run in runs if (sheet := trivial_shares(run)) is not None],
        prompts=[sheet for run in runs if (sheet := prompts(run)) is not None],
        origins=[(f"{run.path.name} ({run.kind})", _origin(run)) for run in runs],
        commands=_commands(runs, command),
        terms=[*TERMS, *targets_meant(_named(runs, "targets")), *selectors_meant(_selectors(runs))],
    )


ASKED = {
    "capture": "what a model's attention computed on these prompts",
    "scores": "how many of the exact top-k keys each selector finds, and how much of the "
    "attention it keeps",
    "quality": "what the model answers when it attends to nothing but what a selector picks",
    "relate": "what fidelity says of quality",
    "gallery": "what the figures and verdicts below show",
}


def _asked(runs: list[Run]) -> str:
    kinds = [kind for kind in ASKED if any(run.kind == kind for run in runs)]
    if len(kinds) > 1 and "gallery" in kinds:
        kinds.remove("gallery")
    told = "; ".join(ASKED[kind] for kind in kinds)
    return f"When a model attends to k keys instead of all of them: {told}."


def _gist(runs: list[Run]) -> str:
    """On what, in one line."""
    parts = _known(runs, "model")
    if lengths := [sample.length for run in runs for sample in run.samples]:
        longest = f"{min(lengths):,} to {max(lengths):,} tokens"
        parts.append(f"{plural(len(lengths), 'prompt')} of {longest}")
    elif counts := _known(runs, "samples"):
        parts.append(f"{', '.join(counts)} prompts")
    if budgets := _named(runs, "budgets"):
        parts.append(f"{', '.join(budgets)} keys per query")
    if targets := _named(runs, "targets"):
        parts.append(f"exact means {' and '.join(targets)}")
    return " · ".join(parts)


def _facts(runs: list[Run]) -> Facts:
    rows: Facts = []
    for label, key in (("Model", "model"), ("Revision", "revision"), ("Family", "model_type"),
                       ("Number format", "dtype")):  # fmt: skip
        if known := _known(runs, key):
            rows.append((label, ", ".join(known)))
    samples = [sample for run in runs for sample in run.samples]
    if samples:
        lengths = [sample.length for sample in samples]
        tasks = sorted({sample.task for sample in samples if sample.task})
        rows.append(
            ("Prompts", f"{len(samples):,}" + (f", tasks {', '.join(tasks)}" if tasks else ""))
        )
        rows.append(("Length", f"{min(lengths):,} to {max(lengths):,} tokens"))
    elif counts := _known(runs, "samples"):
        rows.append(("Prompts", ", ".join(counts)))
    for label, key in (("Query rows kept", "positions"), ("Layers", "layers"),
                       ("Keys allowed per query", "budgets"), ("Targets", "targets"),
                       ("Selectors", "selectors"), ("Run as", "modes")):  # fmt: skip
        if named := _named(runs, key):
            rows.append((label, ", ".join(named)))
    return rows


def _known(runs: list[Run], key: str) -> list[str]:
    """The values of a field in the runs' manifests and the settings of verdicts, each once."""
    held = [run.manifest for run in runs]
    held += [_settings(record) for run in runs for record in run.verdicts]
    values = (fields.get(key) for fields in held)
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    found = record.get("settings")
    return found if isinstance(found, dict) else {}


def _named(runs: list[Run], key: str) -> list[str]:
    """The values of a field that holds a list or one word, each once, numbers in order."""
    found: list[Any] = []
    for run in runs:
        value = run.manifest.get(key) or []
        found += value if isinstance(value, list) else [value]
    if found and all(isinstance(value, int) for value in found):
        found.sort()
    return list(dict.fromkeys(str(value) for value in found))


def _selectors(runs: list[Run]) -> list[str]:
    return list(dict.fromkeys(name.split(":", 1)[0] for name in _named(runs, "selectors")))


def _telling(falls: list[Waterfall]) -> list[Waterfall]:
    """For each budget the waterfall with the most steps; among equals the one that loses most."""
    best: dict[int, Waterfall] = {}
    for fall in falls:
        rank = (len(fall.steps), -fall.kept)
        if fall.budget not in best or rank > (
            len(best[fall.budget].steps),
            -best[fall.budget].kept,
        ):
            best[fall.budget] = fall
    return [best[budget] for budget in sorted(best)]


def _fall(fall: Waterfall) -> Fall:
    bars = [("full attention", 0.0, 100.0, "100 %", "whole")]
    level = 1.0
    for step in fall.steps:
        after = level - step.lost
        low, high = sorted((_within(level), _within(after)))
        said = f"{-step.lost * 100:+.2f} %".replace("-", "−")
        bars.append((step.name, low, high - low, said, "lost" if step.lost >= 0 else "gained"))
        level = after
    bars.append(("kept", 0.0, _within(fall.kept), f"{fall.kept * 100:.2f} %", "whole"))
    rows = plural(fall.rows, "query row")
    return Fall(f"{fall.selector}, {plural(fall.budget, 'key')} per query, mean over {rows}", bars)


def _within(share: float) -> float:
    return round(100 * min(1.0, max(0.0, share)), 3)


def _origin(run: Run) -> Facts:
    rows: Facts = [("Folder", str(run.path))]
    versions = run.origin.get("versions")
    if isinstance(versions, dict):
        rows.append(("Versions", ", ".join(f"{name} {found}" for name, found in versions.items())))
    elif run.manifest.get("torch"):
        names = ("indexer_lab", "torch", "transformers")
        rows.append(("Versions", ", ".join(f"{n} {run.manifest.get(n)}" for n in names)))
    machine = run.origin.get("machine")
    if isinstance(machine, dict):
        rows.append(("Machine", " ".join(str(value) for value in machine.values())))
    for label, value in (("Commit", run.origin.get("commit")), ("Seed", run.manifest.get("seed"))):
        if value is not None:
            rows.append((label, str(value)))
    left_out = {"notes", "selectors", "budgets", "targets", "layers", "modes", "seed", "torch",
                "transformers", "indexer_lab", "model"}  # fmt: skip
    rest = {k: v for k, v in run.manifest.items() if k not in left_out and v not in (None, [])}
    if rest:
        rows.append(("Settings", ", ".join(f"{k} {_listed(value)}" for k, value in rest.items())))
    return rows + [_settled(record) for record in run.verdicts]


def _listed(value: object) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def _settled(record: dict[str, Any]) -> tuple[str, str]:
    """A verdict's script, with its settings and how long it took."""
    said = [
        f"{key} {_listed(value)}"
        for key, value in _settings(record).items()
        if value not in (None, [], "")
    ]
    if isinstance(seconds := record.get("seconds"), int | float):
        said.append(f"{seconds:,.0f} seconds")
    return str(record.get("script") or "verdict"), ", ".join(said) or "no settings"


def _commands(runs: list[Run], command: str) -> list[tuple[str, str]]:
    """What made each folder, each command once, and the report's own last."""
    found: dict[str, list[str]] = {}
    for run in runs:
        name = run.path.name
        made = run.origin.get("command")
        if made and run.kind != "gallery":
            found.setdefault(str(made), []).append(name)
        elif run.kind != "gallery":
            found.setdefault("the folder does not say", []).append(name)
        for record in run.verdicts:
            if made := record.get("command"):
                found.setdefault(str(made), []).append(str(record.get("script") or name))
        for made in dict.fromkeys(picture.command for picture in run.pictures if picture.command):
            found.setdefault(made, []).append(name)
    found.setdefault(command, []).append("this report")
    return [(", ".join(dict.fromkeys(names)), made) for made, names in found.items()]
