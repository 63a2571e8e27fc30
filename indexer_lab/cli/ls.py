"""indexer-lab ls"""

from __future__ import annotations

from collections.abc import Callable

import click


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


def _families() -> list[tuple[str, str]]:
    from indexer_probes.families import known_families

    return known_families()


def _figures() -> list[tuple[str, str]]:
    from indexer_figures import FIGURES

    return [(name, figure.question) for name, figure in FIGURES.items()]


LISTS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "selectors": _selectors,
    "targets": _targets,
    "measures": _measures,
    "tasks": _tasks,
    "families": _families,
    "figures": _figures,
}


@click.command("ls", short_help="List what is known.")
@click.argument("what", type=click.Choice(list(LISTS)))
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def command(what: str, as_json: bool) -> None:
    """List what is known: selectors, targets, measures, tasks, families or figures."""
    rows = LISTS[what]()
    if as_json:
        import json

        click.echo(json.dumps(dict(rows), indent=2, ensure_ascii=False))
        return
    width = max(len(name) for name, _ in rows)
    for name, line in rows:
        click.echo(f"{name:<{width}}  {line}")
