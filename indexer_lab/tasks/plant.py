"""Plants an episode in a stretch of real text of a given length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from indexer_lab.errors import InputError
from indexer_lab.tasks import haystack
from indexer_lab.tasks.episode import Episode, Needle, Sample

Measure = Callable[[str], int]


@dataclass
class Ruler:
    """Measures text in tokens and remembers what the lines of the haystack measure."""

    measure: Measure
    known: dict[tuple[Path, int], int]

    def line(self, path: Path, index: int) -> int:
        """Tokens of one line of a file."""
        if (path, index) not in self.known:
            self.known[path, index] = self.measure(haystack.lines(path)[index])
        return self.known[path, index]


NEAR = 2  # lines of text that may stand between two facts that are planted close together


def plant(
    episode: Episode, rng: Random, ruler: Ruler, length: int, split: str, task: str, name: str,
    close: bool = False,
) -> Sample:  # fmt: skip
    """Spreads an episode's lines over real text so that text and answers fill `length` tokens.

    length: tokens of the text, every question and every answer; at most that many are used, and
            the shortfall is less than a line of text.
    close:  about half of the lines stand within NEAR lines of another: by chance that is rare, and
            a model that never saw it confuses their order.
    Raises InputError when the lines and questions alone are longer than `length`.
    """
    asked = [f"{question.prompt} {question.answer}\n" for question in episode.questions]
    fixed = ruler.measure("".join(f"{line}\n" for line in episode.lines) + "".join(asked))
    room = length - fixed
    if room < 0:
        raise InputError(
            f"{task} needs {fixed} tokens for its lines and questions, but the length is "
            f"{length}: ask for at least {fixed} tokens or a smaller size"
        )
    hay = stretch(rng, ruler, room, split)
    while True:
        sample = _assemble(episode, Random(name), hay, task, name, close)
        tokens = ruler.measure(sample.text)
        answers = sum(ruler.measure(text) for text in asked[1:])
        answers += ruler.measure(f" {sample.answer}\n")
        if tokens + answers <= length or not hay:
            return Sample(**{**vars(sample), "tokens": tokens})
        # A tokenizer may join or split differently across lines: give the difference back.
        del hay[-max(1, (tokens + answers - length) // 16) :]


def stretch(rng: Random, ruler: Ruler, room: int, split: str) -> list[str]:
    """Consecutive lines, from a random place on through random files, within `room` tokens."""
    taken: list[str] = []
    paths = haystack.files(split)
    first = True
    while room > 0:
        path = rng.choice(paths)
        texts = haystack.lines(path)
        start = rng.randrange(len(texts)) if first and texts else 0
        first = False
        for index in range(start, len(texts)):
            size = ruler.line(path, index)
            if size > room:
                return taken
            taken.append(texts[index])
            room -= size
    return taken


def _places(rng: Random, count: int, hay: int, close: bool) -> list[int]:
    """Before which of `hay` lines each of `count` lines goes, in increasing order."""
    places: list[int] = []
    for _ in range(count):
        if close and places and rng.random() < 0.5:
            places.append(min(hay, rng.choice(places) + rng.randint(0, NEAR)))
        else:
            places.append(rng.randint(0, hay))
    return sorted(places)


def _assemble(
    episode: Episode, rng: Random, hay: Sequence[str], task: str, name: str, close: bool
) -> Sample:
    """The text with its needles' places; `rng` decides where the lines go."""
    if episode.together:
        places = [rng.randint(0, len(hay))] * len(episode.lines)
    else:
        places = _places(rng, len(episode.lines), len(hay), close)
    parts: list[str] = []
    starts: list[int] = []
    position = 0
    following = 0
    for index in range(len(hay) + 1):
        while following < len(places) and places[following] == index:
            starts.append(position)
            parts.append(episode.lines[following] + "\n")
            position += len(parts[-1])
            following += 1
        if index < len(hay):
            parts.append(hay[index])
            position += len(hay[index])
    first, *rest = episode.questions
    needles = tuple(
        Needle(starts[line], starts[line] + len(episode.lines[line]), starts[line] / position)
        for line in sorted(first.needles)
    )
    later = tuple((question.prompt, question.answer) for question in rest)
    text = "".join(parts) + first.prompt
    return Sample(name, task, text, first.answer, needles, 0, later)
