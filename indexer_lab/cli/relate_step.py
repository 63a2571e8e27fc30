"""The relate step: a score folder and a quality folder in, answers as CSV out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from indexer_lab import __version__
from indexer_lab.errors import InputError
from indexer_lab.relating import NEEDED, Joined, join, predictors, relations, thresholds
from indexer_lab.store.files import claim, digest, written
from indexer_lab.store.quality import open_quality
from indexer_lab.store.scores import open_scores


@dataclass(frozen=True)
class Related:
    """The join and its answers, table name -> table."""

    joined: Joined
    answers: dict[str, pd.DataFrame]


def relate_step(
    *,
    scores: Path,
    quality: Path,
    output: Path,
    target: str | None = None,
    mode: str | None = None,
    share: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> Related:
    """Joins, asks and writes everything; see `relate --help`."""
    if not 0 < share < 1:
        raise InputError(f"--share {share}: expected a share of dense quality between 0 and 1")
    fidelity, runs = open_scores(scores), open_quality(quality)
    models = fidelity.manifest["model"], runs.manifest["model"]
    if models[0] != models[1]:
        raise InputError(
            f"{scores} is of model {models[0]!r} and {quality} of {models[1]!r}: relate one model's"
        )
    known = list(fidelity.manifest["targets"])
    goal = target or ("head_sum" if "head_sum" in known else known[0])
    kind = mode or str(runs.manifest["modes"][0])
    joined = join(fidelity.tokens(NEEDED), runs.frame(), goal, kind)
    facts = {
        "indexer_lab": __version__,
        "kind": "relate",
        "scores": digest(fidelity.manifest),
        "quality": digest(runs.manifest),
        "draws": draws,
        "seed": seed,
        "share": share,
        "notes": joined.notes,
    }
    answers = {
        "relations": relations(joined, draws, seed),
        "predictors": predictors(joined, draws, seed),
        "thresholds": thresholds(joined, share, draws, seed),
    }
    claim(output, "run.json", facts, resume, force)
    for name, table in {**answers, "pairs": joined.pairs, "swaps": joined.swapped}.items():
        with written(output / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
    return Related(joined, answers)
