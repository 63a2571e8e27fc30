"""Quality runs of a script: budgets from ratios, and every sparse run beside its prompt's own."""

from __future__ import annotations

import numpy as np
import pandas as pd

from indexer_lab.cli.quality_step import quality_step
from indexer_lab.cli.steps import lengths_step
from indexer_lab.errors import InputError
from indexer_lab.quality.trial import ALL_LAYERS, DENSE
from indexer_lab.statistics.bootstrap import Interval
from indexer_lab.statistics.mean import mean
from indexer_lab.store.quality import Quality
from study.arguments import Asked

TEXT = "source_text"
ANSWERS = "answers"
TOKENS = 32  # most that an answer is given; a text brings its own


def budgets(asked: Asked, ratios: tuple[float, ...], tokens: int = TOKENS) -> dict[float, int]:
    """Keys of a query for each share of the longest prompt's keys; 1.0 is all that is ever seen.

    tokens: most that are generated after the prompt.
    """
    longest = max(
        lengths_step(
            asked.model, asked.prompts, asked.tasks, asked.length, asked.samples, asked.seed, tokens
        )
    )
    return {
        ratio: longest + tokens if ratio >= 1 else max(1, round(ratio * longest))
        for ratio in ratios
    }


def spelled(keys: dict[float, int]) -> str:
    """The budgets as `--budget` takes them."""
    return ",".join(str(value) for value in sorted(set(keys.values())))


def run_sparse(
    asked: Asked,
    folder: str,
    keys: dict[float, int],
    *,
    mode: str = "decode",
    selectors: tuple[str, ...] = ("exact",),
    entropy: str = "none",
) -> Quality:
    """Quality rows of full attention and of these selectors alone, at these budgets."""
    return quality_step(
        **asked.reading(),
        output=asked.work / folder,
        budgets=spelled(keys),
        selectors=selectors,
        baselines=False,
        modes=(mode,),
        tokens=TOKENS,
        batch=8,
        entropy=entropy,
    )


def paired(quality: pd.DataFrame, mode: str = "decode") -> pd.DataFrame:
    """Every run that selects in all layers, beside full attention on the same prompt.

    quality: quality rows of one model.
    returns: sample, task, selector, budget, length, `ratio` (budget over tokens of the prompt, at
             most 1), `text`, `quality`, `full`, `loss`. Of a prompt with an answer quality is 1 or
             0 and the loss what full attention has more; of a text quality is its bits per byte,
             and the loss the share by which they rise. Above 0 is worse in both.
    Raises InputError where no prompt has an answer and none is a text.
    """
    rows = quality[(quality["mode"] == mode) & (quality["layer"] == ALL_LAYERS)]
    known = rows[rows["score"].notna() | rows["bits_per_byte"].notna()]
    if known.empty:
        raise InputError(
            "no prompt has an answer or is a text of its own: there is no quality to compare; "
            "give prompts an `answer`, or use --task"
        )
    text = known["score"].isna()
    known = known.assign(text=text, quality=known["score"].where(~text, known["bits_per_byte"]))
    full = known[known["selector"] == DENSE].set_index("sample")["quality"]
    own = known[known["selector"] != DENSE]
    own = own.assign(
        full=own["sample"].map(full), ratio=np.minimum(1.0, own["budget"] / own["length"])
    )
    lost = own["full"] - own["quality"]
    own["loss"] = lost.where(~own["text"], -lost / own["full"])
    names = ["sample", "task", "selector", "budget", "length", "ratio", "text", "quality", "full"]
    return own[[*names, "loss"]].reset_index(drop=True)


def sparse_rows(quality: pd.DataFrame) -> pd.DataFrame:
    """The rows that select, to go with the dense rows of another run on the same prompts."""
    return quality[quality["selector"] != DENSE]


def mean_loss(rows: pd.DataFrame, seed: int = 0) -> Interval:
    """Mean loss of rows of `paired`, all of texts or none, with its interval over prompts."""
    highest = max(1.0, float(rows["loss"].max()))  # a text may cost more than twice as much
    return mean(rows["loss"], rows["sample"], -1.0, highest, seed=seed)


def kinds(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of prompts with answers and those of texts, as far as there are any."""
    parts = {ANSWERS: rows[~rows["text"]], "text": rows[rows["text"]]}
    return {name: part for name, part in parts.items() if len(part)}


def percent(share: float) -> str:
    """A share as a sentence has it: 0.5 %, 20 %."""
    return f"{100 * share:.3g} %"
