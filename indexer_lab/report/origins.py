"""Where folders come from, and the commands that make them again."""

from __future__ import annotations

from typing import Any

from indexer_lab.report.asked import Facts, settings
from indexer_lab.report.runs import Run


def origin_facts(run: Run) -> Facts:
    """Where a folder comes from: versions, machine, commit, seed, settings."""
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
        for key, value in settings(record).items()
        if value not in (None, [], "")
    ]
    if isinstance(seconds := record.get("seconds"), int | float):
        said.append(f"{seconds:,.0f} seconds")
    return str(record.get("script") or "verdict"), ", ".join(said) or "no settings"


def commands(runs: list[Run], command: str) -> list[tuple[str, str]]:
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
