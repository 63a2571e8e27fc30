"""What was asked, and on what."""

from __future__ import annotations

from typing import Any

from indexer_lab.report.content import plural
from indexer_lab.report.runs import Run

Facts = list[tuple[str, str]]

ASKED = {
    "capture": "what a model's attention computed on these prompts",
    "scores": "how many of the exact top-k keys each selector finds, and how much of the "
    "attention it keeps",
    "quality": "what the model answers when it attends to nothing but what a selector picks",
    "relate": "what fidelity says of quality",
    "gallery": "what the figures and verdicts below show",
}


def asked_of(runs: list[Run]) -> str:
    """What these runs ask, in a sentence."""
    kinds = [kind for kind in ASKED if any(run.kind == kind for run in runs)]
    if len(kinds) > 1 and "gallery" in kinds:
        kinds.remove("gallery")
    told = "; ".join(ASKED[kind] for kind in kinds)
    return f"When a model attends to k keys instead of all of them: {told}."


def gist_of(runs: list[Run]) -> str:
    """On what, in one line."""
    parts = known(runs, "model")
    if lengths := [sample.length for run in runs for sample in run.samples]:
        longest = f"{min(lengths):,} to {max(lengths):,} tokens"
        parts.append(f"{plural(len(lengths), 'prompt')} of {longest}")
    elif counts := known(runs, "samples"):
        parts.append(f"{', '.join(counts)} prompts")
    if budgets := named(runs, "budgets"):
        parts.append(f"{', '.join(budgets)} keys per query")
    if targets := named(runs, "targets"):
        parts.append(f"exact means {' and '.join(targets)}")
    return " · ".join(parts)


def facts_of(runs: list[Run]) -> Facts:
    """The settings that a reader must know, name and value."""
    rows: Facts = []
    for label, key in (("Model", "model"), ("Revision", "revision"), ("Family", "model_type"),
                       ("Number format", "dtype")):  # fmt: skip
        if values := known(runs, key):
            rows.append((label, ", ".join(values)))
    samples = [sample for run in runs for sample in run.samples]
    if samples:
        lengths = [sample.length for sample in samples]
        tasks = sorted({sample.task for sample in samples if sample.task})
        rows.append(
            ("Prompts", f"{len(samples):,}" + (f", tasks {', '.join(tasks)}" if tasks else ""))
        )
        rows.append(("Length", f"{min(lengths):,} to {max(lengths):,} tokens"))
    elif counts := known(runs, "samples"):
        rows.append(("Prompts", ", ".join(counts)))
    for label, key in (("Query rows kept", "positions"), ("Layers", "layers"),
                       ("Keys allowed per query", "budgets"), ("Targets", "targets"),
                       ("Selectors", "selectors"), ("Run as", "modes")):  # fmt: skip
        if values := named(runs, key):
            rows.append((label, ", ".join(values)))
    return rows


def known(runs: list[Run], key: str) -> list[str]:
    """The values of a field in the runs' manifests and the settings of verdicts, each once."""
    held = [run.manifest for run in runs]
    held += [settings(record) for run in runs for record in run.verdicts]
    values = (fields.get(key) for fields in held)
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def settings(record: dict[str, Any]) -> dict[str, Any]:
    """The settings that a verdict's record holds."""
    found = record.get("settings")
    return found if isinstance(found, dict) else {}


def named(runs: list[Run], key: str) -> list[str]:
    """The values of a field that holds a list or one word, each once, numbers in order."""
    found: list[Any] = []
    for run in runs:
        value = run.manifest.get(key) or []
        found += value if isinstance(value, list) else [value]
    if found and all(isinstance(value, int) for value in found):
        found.sort()
    return list(dict.fromkeys(str(value) for value in found))
