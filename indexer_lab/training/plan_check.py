"""Says what is wrong with a training plan before anything is made or trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from indexer_lab.errors import InputError, unknown_name
from indexer_lab.tasks import TASKS

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value will do, and what is expected in its place."""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


POSITIVE: Rule = (lambda value: _number(value) and value > 0, "a number above 0")
NOT_NEGATIVE: Rule = (lambda value: _number(value) and value >= 0, "a number from 0 on")
SHARE: Rule = (lambda value: _number(value) and 0 <= value <= 1, "a share from 0 to 1")
COUNT: Rule = (lambda value: _whole(value, 1), "a whole number from 1 on")
WHOLE: Rule = (lambda value: _whole(value, 0), "a whole number from 0 on")
YES_NO: Rule = (lambda value: isinstance(value, bool), "true or false")

RULES: dict[str, Rule] = {
    **dict.fromkeys(("lr", "indexer_lr", "clip"), POSITIVE),
    **dict.fromkeys(("answers", "save"), NOT_NEGATIVE),
    **dict.fromkeys(("warmup", "decay", "density", "text", "repeats", "close"), SHARE),
    **dict.fromkeys(("budget", "stride"), COUNT),
    **dict.fromkeys(("seed", "workers"), WHOLE),
    "compile": YES_NO,
}


def check(content: Mapping[str, Any], source: str) -> None:
    """Raises InputError for the first value of a plan that cannot work; `source` names the file."""
    for name, value in content.items():
        if name in RULES and not (name == "budget" and value is None):
            _expect(value, RULES[name], f"{source}: {name}")
    _check_tasks(content["tasks"], source)
    _check_phases(content["phases"], source)
    _check_parts(content, source)


def _expect(value: Any, rule: Rule, where: str) -> None:
    holds, expected = rule
    if not holds(value):
        raise InputError(f"{where} is {value!r}: expected {expected}")


def _check_tasks(tasks: Any, source: str) -> None:
    if not isinstance(tasks, dict) or not tasks:
        raise InputError(
            f"{source}: tasks is {tasks!r}: expected task names with their weights, "
            "{multi_key: 2, counting: 1}"
        )
    for name, weight in tasks.items():
        if name not in TASKS:
            raise unknown_name(f"task in {source}", str(name), TASKS)
        _expect(weight, NOT_NEGATIVE, f"{source}: the weight of {name}")
    if not sum(tasks.values()):
        raise InputError(f"{source}: every task has weight 0, so there is nothing to draw")


def _check_phases(phases: Any, source: str) -> None:
    if not isinstance(phases, list) or not phases:
        raise InputError(
            f"{source}: phases is {phases!r}: expected at least one {{length, batch, steps}}"
        )
    for phase in phases:
        if not isinstance(phase, dict) or set(phase) != {"length", "batch", "steps"}:
            raise InputError(f"{source}: a phase is {{length, batch, steps}}, found {phase!r}")
        for name, value in phase.items():
            _expect(value, COUNT, f"{source}: a phase's {name}")


def _check_parts(content: Mapping[str, Any], source: str) -> None:
    model, tokenizer = content.get("model", {}), content.get("tokenizer", {})
    if not isinstance(model, dict) or not isinstance(model.get("config", {}), dict):
        raise InputError(f"{source}: model is {model!r}: expected {{family: ..., config: {{...}}}}")
    if not isinstance(tokenizer, dict) or set(tokenizer) not in (set(), {"vocabulary", "files"}):
        raise InputError(
            f"{source}: tokenizer is {tokenizer!r}: expected {{vocabulary: N, files: N}}"
        )
    for name, value in tokenizer.items():
        _expect(value, COUNT, f"{source}: the tokenizer's {name}")
