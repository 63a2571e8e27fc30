"""Drawing with this package's settings, whatever matplotlib's own are."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from indexer_figures.styles import RC

F = TypeVar("F", bound=Callable[..., Figure])


def drawing(draw: F) -> F:
    """Run a draw method under the package's settings; every text is drawn as it is spelled."""

    @wraps(draw)
    def settled(*args: object, **options: object) -> Figure:
        with rc_context(RC):
            figure = draw(*args, **options)
        for text in figure.findobj(Text):
            text.set_parse_math(False)
        return figure

    return settled  # type: ignore[return-value]
