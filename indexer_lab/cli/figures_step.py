"""The figures step: a score table in, pictures with their numbers and provenance out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from indexer_figures import FIGURES, Choice, FigureError, Rendered, figure_named, render
from indexer_lab.errors import InputError
from indexer_lab.progress import progress
from indexer_lab.provenance import provenance
from indexer_lab.store.files import digest, told
from indexer_lab.store.scores import open_scores


@dataclass(frozen=True)
class Drawn:
    """What was drawn, and why the others were not: figure name -> reason."""

    made: list[Rendered]
    left_out: dict[str, str]


def figures_step(
    *,
    scores: Path,
    output: Path,
    names: tuple[str, ...] = (),
    target: str | None = None,
    budget: int | None = None,
    task: str | None = None,
    selectors: tuple[str, ...] = (),
    quiet: bool = False,
    as_json: bool = False,
) -> Drawn:
    """Draws the named figures, or all that these scores can show; see `figures --help`.

    A figure that was named and cannot be drawn is an error; an unnamed one is left out with its
    reason. Raises InputError when nothing at all can be drawn.
    """
    for name in names:
        figure_named(name)
    table = open_scores(scores)
    frame = table.frame()
    origin = provenance({"scores": digest(table.manifest), **table.manifest}, seed=None)
    choice = Choice(target, None, budget, task, tuple(selectors) or None)
    drawn = Drawn([], {})
    wanted = names or tuple(FIGURES)
    with progress("figures", len(wanted), quiet or as_json) as advance, told(output):
        for name in wanted:
            try:
                drawn.made.append(render(name, frame, output, origin, choice))
            except FigureError as reason:
                if names:
                    raise
                drawn.left_out[name] = str(reason)
            advance(name)
    if not drawn.made:
        raise InputError(f"no figure can be drawn: {next(iter(drawn.left_out.values()))}")
    return drawn
