"""indexer-lab ls"""

from __future__ import annotations

from collections.abc import Callable

import click

from indexer_lab.errors import InputError


def _first_line(thing: object) -> str:
    return (getattr(thing, "__doc__", None) or "").strip().splitlines()[0]


def _selectors() -> list[tuple[str, str]]:
    from indexer_lab.selectors import SELECTORS

    return [(name, _first_line(factory)) for name, factory in SELECTORS.items()]


def _targets() -> list[tuple[str, str]]:
    from indexer_lab.targets import TARGETS

    return [(name, target.meaning) for name, target in TARGETS.items()]


def _measures() -> list[tuple[str, str]]:
    from indexer_lab.measures import FACTS, MEASURES

    return [(name, _first_line(measure)) for name, measure in {**MEASURES, **FACTS}.items()]


def _tasks() -> list[tuple[str, str]]:
    from indexer_lab.published.names import SUITES
    from indexer_lab.tasks import TASKS, source_text

    planted = [(name, task.about) for name, task in TASKS.items()]
    published = [(f"{suite}:NAME", f"quality: {about}") for suite, about in SUITES.items()]
    return [*planted, (source_text.NAME, source_text.ABOUT), *published]


def _figures() -> list[tuple[str, str]]:
    from indexer_figures import FIGURES

    return [(name, figure.question) for name, figure in FIGURES.items()]


LISTS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "selectors": _selectors,
    "targets": _targets,
    "measures": _measures,
    "tasks": _tasks,
    "figures": _figures,
}


@click.command("ls", short_help="List what is known.")
@click.argument("what", type=click.Choice([*LISTS, "families"]))
@click.option("--all", "everything", is_flag=True, help="families: every language model there is.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def command(what: str, everything: bool, as_json: bool) -> None:
    """List what is known: selectors, targets, measures, tasks, families or figures.

    Families are proved while you wait: a tiny random model of each runs in the installed
    transformers, and what is captured of it must give back its own attention and selections.
    """
    if what == "families":
        from indexer_lab.cli.ls_families import show

        show(everything, as_json)
        return
    if everything:
        raise InputError(f"--all is for families; {what} are always listed whole")
    rows = LISTS[what]()
    if as_json:
        import json

        click.echo(json.dumps(dict(rows), indent=2, ensure_ascii=False))
        return
    width = max(len(name) for name, _ in rows)
    for name, line in rows:
        click.echo(f"{name:<{width}}  {line}")
