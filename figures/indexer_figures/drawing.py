"""Drawing with this package's settings, whatever matplotlib's own are."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TypeVar

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from indexer_figures.styles import RC

F = TypeVar("F", bound=Callable[..., Figure])


def drawing(draw: F) -> F:
    """Run a draw method under the package's settings; every text is drawn as it is spelled.

    The layout is settled here, once: PNG and SVG then agree, and saving need not repeat it.
    """

    @wraps(draw)
    def settled(*args: object, **options: object) -> Figure:
        with settings():
            figure = draw(*args, **options)
            for text in figure.findobj(Text):
                text.set_parse_math(False)
            _settle(figure)
        return figure

    return settled  # type: ignore[return-value]


def _settle(figure: Figure) -> None:
    """Lay the figure out, then fix the places: the solver's last digits differ from run to run."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:
        ax.set_position(np.round(ax.get_position(original=True).bounds, 6))


@contextmanager
def settings() -> Iterator[None]:
    """This package's matplotlib settings; a character that the font lacks is drawn as a box."""
    with rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield
