"""The one error that this package raises for a caller's mistake."""


class FigureError(ValueError):
    """A figure can't be drawn honestly from this input; the message says what would fix it."""
