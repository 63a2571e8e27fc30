"""How a published task is spelled on the command line: `suite:name`."""

from __future__ import annotations

from dataclasses import dataclass

from indexer_lab.errors import InputError, unknown_name

SUITES = {
    "lm-eval": "any task or group that lm-eval knows, or that --include-path holds",
    "helmet": "HELMET's recall and RAG tasks, read from --data",
}


@dataclass(frozen=True)
class Asked:
    """Tasks of one suite, each once."""

    suite: str
    names: tuple[str, ...]


def asked(tasks: tuple[str, ...]) -> Asked | None:
    """The published tasks among `tasks`; None when all of them are built in.

    Raises InputError for an unknown suite, and for a mixture of suites or with built-in tasks.
    """
    pairs = [task.split(":", 1) if ":" in task else ["", task] for task in tasks]
    suites = dict.fromkeys(suite for suite, _ in pairs)
    for suite in filter(None, suites):
        if suite not in SUITES:
            raise unknown_name("suite of tasks", suite, SUITES)
    if len(suites) > 1:
        raise InputError(
            f"--task {', '.join(tasks)}: tasks of different suites are different runs; run "
            "quality once for each suite"
        )
    if not any(suites):
        return None
    return Asked(next(iter(suites)), tuple(dict.fromkeys(name for _, name in pairs)))
