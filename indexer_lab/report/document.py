"""A report's content, put together from its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from indexer_lab.report.asked import Facts, asked_of, facts_of, gist_of, known, named
from indexer_lab.report.cautions import cautions
from indexer_lab.report.content import Picture, Table, Verdict
from indexer_lab.report.falls import Fall, as_bars, telling
from indexer_lab.report.glossary import TERMS, selectors_meant, targets_meant
from indexer_lab.report.origins import commands, origin_facts
from indexer_lab.report.runs import Run
from indexer_lab.report.tables import prompts, tables, trivial_shares, waterfall_table
from indexer_lab.report.verdicts import verdicts
from indexer_lab.waterfall import waterfalls


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
    models = known(runs, "model")
    selectors = list(dict.fromkeys(name.split(":", 1)[0] for name in named(runs, "selectors")))
    return Document(
        title=f"Which keys were missed, and what did that cost? {', '.join(models)}".strip(),
        asked=asked_of(runs),
        gist=gist_of(runs),
        facts=facts_of(runs),
        verdicts=sorted(
            (v for run in runs for v in verdicts(run)), key=lambda v: v.state == "measured"
        ),
        cautions=cautions(runs),
        pictures=[*(p for run in runs for p in run.pictures), *pictures],
        falls=[as_bars(fall) for fall in telling(falls)],
        fall_table=waterfall_table(falls) if falls else None,
        tables=[(run.path.name, found) for run in runs if (found := tables(run))],
        trivial=[sheet for run in runs if (sheet := trivial_shares(run)) is not None],
        prompts=[sheet for run in runs if (sheet := prompts(run)) is not None],
        origins=[(f"{run.path.name} ({run.kind})", origin_facts(run)) for run in runs],
        commands=commands(runs, command),
        terms=[*TERMS, *targets_meant(named(runs, "targets")), *selectors_meant(selectors)],
    )
