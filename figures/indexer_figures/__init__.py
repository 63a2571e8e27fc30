"""Tables in, matplotlib figures out: how well selectors do, and where they fail.

>>> from indexer_figures import FIGURES, render
>>> "recall_by_layer" in FIGURES
True
"""

from indexer_figures.errors import FigureError
from indexer_figures.render import Rendered, figure_named, render
from indexer_figures.scope import Choice
from indexer_figures.styles import selector_looks
from indexer_figures.summary import STATISTICS, summarise
from indexer_figures.table import FIGURES, source_of

__all__ = [
    "FIGURES",
    "STATISTICS",
    "Choice",
    "FigureError",
    "Rendered",
    "figure_named",
    "render",
    "selector_looks",
    "source_of",
    "summarise",
]
