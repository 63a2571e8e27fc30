"""Text that fits: measured with the renderer, wrapped, drawn literally."""

from matplotlib.figure import Figure
from matplotlib.text import Text

from indexer_figures.words import printable

_BREAK_AFTER = " :,;/|"


class Ruler:
    """Measures text in inches at a size in points, without drawing it."""

    def __init__(self, figure: Figure, size: float = 7, weight: str = "normal") -> None:
        self._renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        self._dpi = figure.dpi
        self._text = Text(0, 0, "", fontsize=size, fontweight=weight, parse_math=False)
        self._text.set_figure(figure)
        self.line_height = size * 1.35 / 72

    def width(self, text: str) -> float:
        """Inches that one line of text takes."""
        if not text:
            return 0.0
        self._text.set_text(text)
        return float(self._text.get_window_extent(self._renderer).width) / self._dpi

    def wrap(self, text: str, width: float, max_lines: int = 6) -> list[str]:
        """Lines no wider than `width` inches; past `max_lines` the middle becomes an ellipsis."""
        lines = self._lines(printable(text), width)
        if len(lines) <= max_lines:
            return lines
        spelled = printable(text)
        low, high = 0, len(spelled) // 2  # letters to keep at either end
        while low < high:
            middle = (low + high + 1) // 2
            fits = len(self._lines(_ends(spelled, middle), width)) <= max_lines
            low, high = (middle, high) if fits else (low, middle - 1)
        return self._lines(_ends(spelled, low), width)

    def _lines(self, text: str, width: float) -> list[str]:
        if self.width(text) <= width:
            return [text]
        lines, line = [], ""
        for piece in _pieces(text):
            if self.width((line + piece).rstrip()) <= width:
                line += piece
                continue
            if line:
                lines.append(line.rstrip())
            line = piece
            while self.width(line.rstrip()) > width:
                cut = self._fitting(line, width)
                lines.append(line[:cut])
                line = line[cut:]
        return [*lines, line.rstrip()] if line.strip() else lines

    def _fitting(self, text: str, width: float) -> int:
        """How many leading characters fit, at least one."""
        low, high = 1, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.width(text[:middle]) <= width else (low, middle - 1)
        return low


def distinct(labels: list[str]) -> list[str]:
    """The labels, numbered where shortening made two of them equal."""
    seen: dict[str, int] = {}
    result = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        result.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return result


def _ends(text: str, letters: int) -> str:
    return f"{text[:letters]}…{text[len(text) - letters :]}"


def _pieces(text: str) -> list[str]:
    pieces, start = [], 0
    for end, char in enumerate(text, 1):
        if char in _BREAK_AFTER:
            pieces.append(text[start:end])
            start = end
    return [*pieces, text[start:]] if start < len(text) else pieces
