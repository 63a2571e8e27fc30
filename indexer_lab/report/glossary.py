"""The words of a report, for a reader who has nothing but the report."""

from __future__ import annotations

from collections.abc import Iterable

TERMS = [
    ("query, key", "A token that attends, and a token that it may attend to."),
    ("selector", "Picks the keys of a query without seeing the exact answer."),
    ("budget", "How many keys a selector may pick for a query."),
    ("target", "What the exact answer is measured on; recall means nothing before it is said."),
    ("exact", "The best possible pick for a target: its true top keys."),
    ("recall", "Share of the exact keys that were picked; keys that tie are interchangeable."),
    ("mass", "Softmax probability that full attention puts on the picked keys."),
    (
        "output error",
        "How far attention over the picked keys alone moves the output, relative to its size.",
    ),
    (
        "trivial row",
        "A query that sees no more keys than the budget: right whatever is picked, so it is "
        "counted and left out of every number.",
    ),
    ("entropy", "How widely a query spreads its attention, in nats."),
    (
        "mean, median, p10, p1, worst",
        "Over the query rows that count; a tenth of them are worse than p10, a hundredth than p1.",
    ),
    ("dense", "The model with full attention."),
    (
        "nll, delta nll, kl",
        "What the dense model's own tokens cost the model, in nats per token; how much more than "
        "dense; and how far its next-token distribution is from dense's.",
    ),
    ("agreement", "Share of tokens for which the model's first choice is the dense model's."),
    ("score", "Share of right answers."),
    (
        "estimate, low, high, p, p holm",
        "A correlation with its 95 % interval, which resamples whole prompts, and its p-value, "
        "before and after correction for how many were asked.",
    ),
    (
        "r2, behind",
        "How much of quality a measure predicts on unseen prompts; how far the best leads.",
    ),
    ("replay", "The dense model's own text is forced on the model; each token is compared."),
    ("decode", "The model reads the prompt with full attention and writes its own answer."),
]


def targets_meant(names: Iterable[str]) -> list[tuple[str, str]]:
    """What each target of the runs means."""
    from indexer_lab.targets import TARGETS

    return [(f"target {n}", f"{_upper(TARGETS[n].meaning)}.") for n in names if n in TARGETS]


def selectors_meant(names: Iterable[str]) -> list[tuple[str, str]]:
    """What each selector of the runs picks."""
    from indexer_lab.selectors import SELECTORS

    return [
        (f"selector {name}", (SELECTORS[name].__doc__ or "").strip().splitlines()[0])
        for name in names
        if name in SELECTORS and SELECTORS[name].__doc__
    ]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
