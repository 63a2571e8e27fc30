"""The two measures that most figures show, in words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """Names of a measure: as a title, as an axis, and as the verb phrase of a sentence."""

    title: str
    axis: str
    sentence: str


MEASURES = {
    "recall": Measure("Recall", "recall (share of exact keys)", "finds {} of the exact keys"),
    "mass": Measure("Attention mass", "attention mass kept (share)",
                    "keeps {} of the attention mass"),
}  # fmt: skip
