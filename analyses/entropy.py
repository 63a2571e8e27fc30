"""Attention entropy of two fine-tuned models: does top-k training lower it, and does that help?

    python analyses/entropy.py                        about four minutes on two CPU cores
    python analyses/entropy.py --full --device cuda   8,192 tokens, a hundred prompts
    python analyses/entropy.py --model tuned-with-topk --against tuned-without --prompts FILE

Entropy is that of full attention in decode, in nats, averaged over steps, layers and heads of a
prompt. It is compared between the models prompt by prompt, and within each model it is held against
what exact top-k decoding costs the same prompt.
"""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import pandas as pd

from indexer_lab.cli.figure_tables import decode_entropy
from indexer_lab.quality.trial import DENSE
from indexer_lab.statistics.correlation import correlate
from indexer_lab.statistics.mean import mean
from indexer_lab.store.quality import Quality
from study import (
    Answer,
    Asked,
    Number,
    Script,
    Size,
    Verdict,
    all_of,
    at_least,
    at_most,
    draw,
    draw_table,
    run,
)
from study.quality import TEXT, budgets, kinds, paired, run_sparse

TASKS = ("multi_value", "common_words", TEXT)  # what one key a head does harm
SCRIPT = Script(
    "entropy",
    "Training with top-k attention lowers attention entropy, and the lower a prompt's entropy, the "
    "less top-k decoding costs it.",
    "needle-topk-sft",
    Size(TASKS, 2032, 12),
    Size(TASKS, 8160, 100),
    extra={"against": {"default": "needle-dense-sft", "help": "tuned with full attention"}},
)
RATIOS = (0.0, 0.005)  # one key, and the study's smallest ratio: where anything is lost at all
ROLES = ("topk", "full")


def study(asked: Asked) -> Answer:
    keys = budgets(asked, RATIOS)
    models = dict(zip(ROLES, (asked.model, str(asked.more["against"])), strict=True))
    runs = {
        role: run_sparse(replace(asked, model=model), role, keys, entropy="last:16")
        for role, model in models.items()
    }
    entropies = {role: _entropy(quality) for role, quality in runs.items()}
    rows = pd.concat(
        [joined(paired(runs[role].frame()), entropies[role], role) for role in ROLES],
        ignore_index=True,
    )
    origin = {role: quality.manifest for role, quality in runs.items()}
    figures = [
        draw_table(asked, "entropy_by_model", points(entropies, models), origin),
        draw(asked, "entropy_distribution", runs["topk"].path, budget=max(keys.values())),
        draw(asked, "quality_by_entropy", runs["topk"].path, mode="decode",
             budget=min(keys.values()), task=TEXT if TEXT in asked.tasks else None),
    ]  # fmt: skip
    tables = {"by_prompt": rows.drop(columns=["selector"])}
    return Answer(judge(rows, asked.seed), tables, tuple(figures))


def _entropy(quality: Quality) -> pd.DataFrame:
    found = quality.entropy()
    assert found is not None  # run_sparse was asked for it
    return found


def joined(rows: pd.DataFrame, entropy: pd.DataFrame, role: str) -> pd.DataFrame:
    """Rows of `paired` with their prompt's mean decode entropy, and which model they are of."""
    return rows.assign(role=role, entropy=rows["sample"].map(decode_entropy(entropy)))


def judge(rows: pd.DataFrame, seed: int = 0) -> Verdict:
    """The verdict on rows of `joined` of both models: both halves of the claim must hold."""
    changes = {kind: _change(kind, part, seed) for kind, part in kinds(rows).items()}
    relations = [
        _relation(kind, int(budget), own, seed)
        for kind, part in kinds(rows).items()
        for budget, own in part.groupby("budget")
    ]
    lower = all_of(*(at_most(number, 0.0) for number in changes.values()))
    known = [number for number in relations if not isnan(number.estimate)]
    helps = all_of(*(at_least(number, 0.0) for number in known))
    sentence = (
        f"Top-k training lowers entropy: {lower}; {_listed(list(changes.values()))}. "
        f"Low entropy goes with a small loss: {helps}; {_listed(relations)}."
    )
    caveats = (
        "Entropy is compared within a kind of prompt; the models, fine-tuned from one base for few "
        "steps, differ little.",
    )
    numbers = (*changes.values(), *relations)
    return Verdict(all_of(lower, helps), sentence, numbers, caveats)


def _change(kind: str, rows: pd.DataFrame, seed: int) -> Number:
    """How much more entropy the model tuned with top-k has, prompt by prompt."""
    each = rows.groupby(["role", "sample"])["entropy"].first()
    change = (each["topk"] - each["full"]).dropna()
    reach = max(1.0, change.abs().max())
    found = mean(change, change.index, -reach, reach, seed=seed)
    return Number.of(f"entropy of {kind}, tuned with top-k less tuned without", found, "nats")


def _relation(kind: str, budget: int, rows: pd.DataFrame, seed: int) -> Number:
    """How a prompt's entropy goes with its loss at one budget; model and length held."""
    held = pd.DataFrame({"role": rows["role"] == "topk", "length": rows["length"]}).astype(float)
    found = correlate(
        rows["entropy"], rows["loss"], rows["sample"], "spearman", held, seed=seed
    )  # fmt: skip
    keys = "one key" if budget == 1 else f"{budget} keys"
    return Number.of(f"rank correlation of entropy and loss of {kind} on {keys}", found,
                     "correlation")  # fmt: skip


def _listed(numbers: list[Number]) -> str:
    return "; ".join(f"{number.name}: {number}" for number in numbers)


def points(entropies: dict[str, pd.DataFrame], models: dict[str, str]) -> pd.DataFrame:
    """What the figure plots: full attention's entropy in decode by layer, a line for each model."""
    parts = []
    for role, entropy in entropies.items():
        dense = entropy[(entropy["selector"] == DENSE) & (entropy["phase"] == "decode")]
        each = dense.groupby(["sample", "task", "layer"])["entropy"].mean().reset_index()
        parts.append(each.assign(selector=models[role]))
    rows = pd.concat(parts, ignore_index=True)
    panel = rows["task"].where(rows["task"] != TEXT, "source text")
    return rows.assign(panel=panel, x=rows["layer"], value=rows["entropy"])


if __name__ == "__main__":
    run(SCRIPT, study, __doc__)
