"""The figures step: finished folders in, pictures with their numbers and provenance out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from indexer_figures import FIGURES, Choice, FigureError, Rendered, figure_named, render, source_of
from indexer_lab.cli.figure_tables import SOURCES, Source, sources
from indexer_lab.errors import InputError
from indexer_lab.progress import progress
from indexer_lab.provenance import provenance
from indexer_lab.store.files import digest, told


@dataclass(frozen=True)
class Drawn:
    """What was drawn, and why the others were not: figure name -> reason."""

    made: list[Rendered]
    left_out: dict[str, str]


def figures_step(
    *,
    folders: tuple[Path, ...],
    output: Path,
    names: tuple[str, ...] = (),
    target: str | None = None,
    budget: int | None = None,
    task: str | None = None,
    selectors: tuple[str, ...] = (),
    mode: str | None = None,
    stems: Mapping[str, str] | None = None,
    quiet: bool = False,
    as_json: bool = False,
) -> Drawn:
    """Draws the named figures, or all that these folders can show; see `figures --help`.

    A figure that was named and cannot be drawn is an error; an unnamed one is left out with its
    reason. Raises InputError when nothing at all can be drawn.

    stems: figure -> name of its files, where it is not the figure's own.
    """
    for name in names:
        figure_named(name)
    held = sources(folders)
    choice = Choice(target, None, budget, task, tuple(selectors) or None, mode=mode)
    drawn = Drawn([], {})
    wanted = names or tuple(name for name in FIGURES if source_of(name) in held)
    with progress("figures", len(wanted), quiet or as_json) as advance, told(output):
        for name in wanted:
            try:
                table = _source(held, name)
                origin = {table.folder: digest(table.manifest), **table.manifest}
                stem = (stems or {}).get(name)
                source = provenance(origin, seed=None)
                made = render(name, table.frame, output, source, choice, stem)
                drawn.made.append(made)
            except FigureError as reason:
                if names:
                    raise
                drawn.left_out[name] = str(reason)
            advance(name)
    if not drawn.made:
        raise InputError(f"no figure can be drawn: {next(iter(drawn.left_out.values()))}")
    return drawn


def _source(held: dict[str, Source], name: str) -> Source:
    source = source_of(name)
    if source not in held:
        raise InputError(f"figure {name!r} reads {SOURCES[source]}, and none was given")
    return held[source]
