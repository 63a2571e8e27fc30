"""HELMET's scores of an output, as its utils.py and data.py define them."""

from __future__ import annotations

import re
import string


def recall(output: str, answers: list[str]) -> float:
    """Share of the answers that the output holds, case apart."""
    return sum(answer.lower() in output.lower() for answer in answers) / len(answers)


def found(output: str, answers: list[str]) -> float:
    """1 when the output holds any of the answers, both normalised; else 0.

    HELMET also tries the answer's own line, which the output holds: what is in it is found anyway.
    """
    text = normal(output)
    return float(any(normal(answer) in text for answer in answers))


def normal(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


SCORES = {"recall": recall, "found": found}
