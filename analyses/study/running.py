"""A script from its command line to its verdict."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from indexer_lab.cli import sentence
from indexer_lab.store.files import write_json
from study.arguments import Asked, Script, ask
from study.claim import Number, Verdict, figures
from study.gallery import write_table
from study.record import record


@dataclass(frozen=True)
class Answer:
    """What a script found.

    tables:  name -> table, written as `<script>_<name>.csv`.
    figures: stems of what `draw` and `draw_table` drew.
    """

    verdict: Verdict
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: tuple[str, ...] = ()


def run(script: Script, study: Callable[[Asked], Answer], about: str | None) -> None:
    """Asks, studies, writes `<script>.json` and its tables, and says the verdict in words.

    Exit codes as everywhere: 0 whatever the verdict, 2 bad input, 3 out of memory or disk.
    """
    try:
        asked = ask(script, about)
        start = time.perf_counter()
        answer = study(asked)
        publish(script, asked, answer, time.perf_counter() - start)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command with --resume goes on from here")
    except Exception as error:
        spoken = sentence(error)
        if spoken is None:
            raise
        print(f"error: {spoken[0]}", file=sys.stderr)
        sys.exit(spoken[1])


def publish(script: Script, asked: Asked, answer: Answer, seconds: float) -> None:
    """Writes the tables and then the verdict, so that where it is, all are.

    Raises ValueError for a table or a verdict that would take the place of a figure's files.
    """
    names = {script.name, *(f"{script.name}_{name}" for name in answer.tables)}
    taken = names & set(answer.figures)
    if taken:
        raise ValueError(f"a figure is named {min(taken)!r} already: give it another stem")
    tables = [write_table(asked, name, table) for name, table in answer.tables.items()]
    command = shlex.join(["python", f"analyses/{script.name}.py", *sys.argv[1:]])
    found = record(
        script, asked, answer.verdict, seconds, command, tables, list(answer.figures)
    )  # fmt: skip
    path = asked.output / f"{script.name}.json"
    write_json(path, found)
    if not asked.quiet:
        print(words(script, answer.verdict))
        print(f"{path}, {len(tables)} tables, {len(answer.figures)} figures; {seconds:.0f} s")


def words(script: Script, verdict: Verdict) -> str:
    """The verdict as it is printed: claim, finding, sentence, numbers, caveats."""
    head = [f"Claim: {script.claim}", f"{verdict.finding.value.capitalize()}. {verdict.sentence}"]
    return "\n".join([*head, *_rows(verdict.numbers), *verdict.caveats])


def say(text: str) -> None:
    """Tells on stderr what goes on."""
    print(text, file=sys.stderr, flush=True)


def _rows(numbers: tuple[Number, ...]) -> list[str]:
    width = max((len(number.name) for number in numbers), default=0)
    return [
        f"  {number.name:<{width}}  {figures(number.estimate):>6} {_ends(number):<18} "
        f"{number.unit}, {number.n} prompts"
        for number in numbers
    ]


def _ends(number: Number) -> str:
    if not number.decided:
        return "[no interval]"
    return f"[{figures(number.low)}, {figures(number.high)}]"
