"""What every figure offers."""

from collections.abc import Mapping
from typing import Protocol

import pandas as pd
from matplotlib.figure import Figure

from indexer_figures.scope import DEFAULT, Choice
from indexer_figures.styles import Look


class FigureKind(Protocol):
    """A figure: a question, the numbers that answer it, their picture and their reading."""

    @property
    def title(self) -> str:
        """A few words, drawn above the axes."""

    @property
    def question(self) -> str:
        """The question that the figure answers."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the score table that it reads."""

    @property
    def shape(self) -> str:
        """What is drawn on which axis, for a reader who can't see it."""

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """Exactly the numbers plotted, and what they are about; raises FigureError."""

    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of a table; looks keep a selector's colour across figures."""

    def reading(self, table: pd.DataFrame) -> str:
        """One sentence that says what the numbers show."""
