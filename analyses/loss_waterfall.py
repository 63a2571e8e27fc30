"""Where attention mass is lost on the way from a budget to a deployed indexer.

    python analyses/loss_waterfall.py                       about a minute on two CPU cores
    python analyses/loss_waterfall.py --full --device cuda  8,176 tokens, more prompts, the kernel
    python analyses/loss_waterfall.py --model org/name --prompts mine.jsonl --budget 2048
    python analyses/loss_waterfall.py --step lightning --step recorded:engine.safetensors

All attention is 1. The budget leaves each head its own exact top-k. Sharing one set leaves the
exact top-k of the head-averaged probability, which no other shared set exceeds. Then come the
indexer, its scores in fp8 (on a GPU from torch, then from the Triton kernel) and a cheaper search:
half of the index heads. Each step is the mass before it less the mass after it on the same query
rows, so the steps sum to what the last one loses. A model without an indexer loses to the budget,
to fp8 scores and to FAISS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from indexer_figures import Choice
from indexer_figures.loss_waterfall import LossWaterfall, step_rows
from indexer_lab.cli.scoring_step import score_step
from indexer_lab.cli.steps import capture_step
from indexer_lab.errors import InputError
from indexer_lab.statistics.mean import mean
from indexer_lab.statistics.ratio import ratio
from indexer_probes.records import LayerRecord
from study import (
    Answer,
    Asked,
    Finding,
    Number,
    Script,
    Size,
    Verdict,
    all_of,
    at_least,
    at_most,
    draw,
    run,
    say,
)

ROUNDING = 0.1  # of the indexer's own loss: what rounding may cost at most
FIGURE = "loss_waterfall"

SCRIPT = Script(
    FIGURE,
    "Beyond what the budget costs, sharing one set among heads loses at least as much attention "
    "mass as the indexer's own mistakes, and fp8 scores lose at most a tenth as much as those.",
    "needle-dsa",
    small=Size(("multi_key", "key_value", "variable_tracking"), 2032, 3),
    full=Size(("multi_key", "key_value", "variable_tracking", "source_text"), 8176, 8),
    extra={
        "budget": {"type": int, "default": 128, "help": "keys per query (128)"},
        "step": {"action": "append", "help": "a selector after the budget and sharing, in order"},
    },
)


def study(asked: Asked) -> Answer:
    say("capture")
    capture = capture_step(
        **asked.reading(), output=asked.work / "capture", witnesses=0,
        positions="last:256" if asked.full else "last:64",
    )  # fmt: skip
    first = capture.record(capture.samples[0], capture.layers[0])
    steps = tuple(asked.more["step"] or chain(first, asked.device.startswith("cuda")))
    shares = "head_sum" if first.indexer is not None else None
    say(f"score {', '.join(steps)}")
    scores = score_step(
        capture=capture.path, output=asked.work / "scores", selectors=steps, device=asked.device,
        targets=("per_head", *([shares] if shares else [])), budgets=str(asked.more["budget"]),
        **asked.again(),
    )  # fmt: skip
    frame = scores.frame(list(LossWaterfall.columns))
    losses = Losses.of(frame, Choice(budget=asked.more["budget"], selectors=steps))
    figure = draw(
        asked, FIGURE, scores.path, stem=f"{SCRIPT.name}_steps", budget=asked.more["budget"],
        selectors=steps,
    )  # fmt: skip
    tables = {"by_prompt": losses.by_prompt.reset_index(), "by_layer": losses.by_layer}
    return Answer(judge(losses, asked.seed), tables, (figure,))


def chain(record: LayerRecord, gpu: bool) -> tuple[str, ...]:
    """The default steps after the budget and sharing."""
    if record.indexer is None:
        return "quantised:precision=fp8", "faiss:HNSW16:efSearch=64"
    half = max(1, len(record.indexer.queries) // 2)
    fp8 = "lightning:precision=fp8"
    rounded = (f"{fp8},backend=torch", f"{fp8},backend=triton") if gpu else (fp8,)
    return "lightning", *rounded, f"index_heads:heads={half},precision=fp8"


@dataclass(frozen=True)
class Losses:
    """Mass lost in each step, whose sum was checked.

    by_prompt: [sample] x steps and `total`, means over a prompt's query rows.
    by_layer:  [layer] x steps and `total`, means over the layer's rows of all prompts.
    """

    by_prompt: pd.DataFrame
    by_layer: pd.DataFrame

    @staticmethod
    def of(scores: pd.DataFrame, choice: Choice) -> Losses:
        """Raises InputError where the steps do not sum to 1 less the last one's mass."""
        scope, rows = step_rows(scores, choice)
        rows = rows.astype({"sample": str})
        order = list(dict.fromkeys(rows["step"]))
        last = scope.rows[scope.rows["selector"] == rows["selector"].iloc[-1]]
        tables = []
        for key in ("sample", "layer"):
            table = rows.groupby([key, "step"])["loss"].mean().unstack()[order]
            kept = last.astype({"mass": float}).groupby(last[key].astype(str))["mass"].mean()
            table["total"] = 1 - kept.set_axis(kept.index.astype(table.index.dtype))
            if not np.allclose(table[order].sum(axis=1), table["total"], rtol=0, atol=1e-9):
                raise InputError("the steps do not sum to the loss: they were scored on other rows")
            tables.append(table)
        return Losses(tables[0], tables[1].reset_index())


def judge(losses: Losses, seed: int = 0) -> Verdict:
    """The claim, where the chain has the steps that it speaks of."""
    table = losses.by_prompt
    numbers = [_mean(f"lost: {name}", table[name], seed) for name in table.columns]
    words = ", ".join(f"{name} {table[name].mean():.2%}" for name in table.columns[:-1])
    sentence = f"{table['total'].mean():.2%} of the attention mass is lost: {words}."
    if not {"sharing", "indexer", "fp8"} <= set(table.columns):
        caveat = (
            "The claim needs the steps sharing, indexer and fp8; this chain has not all of them."
        )
        return Verdict(Finding.UNDECIDED, sentence, tuple(numbers), (caveat,))
    sharing = _mean("sharing less indexer", table["sharing"] - table["indexer"], seed)
    share = ratio(table["fp8"], table["indexer"], table.index, seed=seed)
    rounding = Number.of("fp8 as a share of indexer", share)
    finding = all_of(at_least(sharing, 0.0), at_most(rounding, ROUNDING))
    sentence += f" Sharing less indexer: {sharing}; fp8 over indexer: {rounding}."
    return Verdict(
        finding,
        sentence,
        (sharing, rounding, *numbers),
        (
            "Mass is not quality: the script says where attention is lost, not what that costs.",
            "The order of the steps is part of the answer: another order shares the loss out anew.",
        ),
    )


def _mean(name: str, values: pd.Series, seed: int) -> Number:
    return Number.of(name, mean(values, values.index, lowest=-1.0, seed=seed))


if __name__ == "__main__":
    run(SCRIPT, study, __doc__)
