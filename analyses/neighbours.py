"""SPAttention, SpecAttn and RetroAttention at equal budget, beside Quest and the baselines.

    python analyses/neighbours.py           a few minutes on two CPU cores
    python analyses/neighbours.py --full    the large version, for a GPU

Mass is measured on captured queries; KL to the dense model in a replay of held-out source text,
long enough for RetroAttention to correct what it computed; right answers in decoding. How budgets
are kept equal:

- SPAttention has none: a head's band is N / H keys wide, and a smaller budget cuts it. So it is
  judged at the larger budget.
- SpecAttn drafts with the model's own first layers, its layer map calibrated on other prompts. In
  those layers it reads the model's own attention, so its mass is judged in the layers after them.
  Its two dense layers would see every key, so they are switched off; the row `spec_attn, as
  published` has them.
- RetroAttention: in the score table a query's union holds the budget; live each step loads it, as
  Quest does, and corrections come of what is loaded anyway. `exposure` says how many keys a union
  holds when each step loads the budget.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from indexer_lab.cli.options import numbers
from indexer_lab.cli.quality_step import quality_step
from indexer_lab.cli.scoring_step import score_step
from indexer_lab.cli.steps import capture_step
from indexer_lab.errors import InputError
from indexer_lab.selectors.retro import union_sizes
from indexer_lab.selectors.spec_map import calibrated
from indexer_lab.statistics.mean import mean
from indexer_lab.store.capture import Capture
from indexer_lab.store.quality import Quality
from indexer_lab.store.scores import Scores
from study import (  # fmt: skip
    Answer,
    Asked,
    Finding,
    Number,
    Script,
    Size,
    Verdict,
    all_of,
    at_least,
    draw_table,
    run,
    say,
)
from study.paired import by_prompt, interval, losses
from study.quality import TEXT

TASKS = ("multi_key", "variable_tracking", "multi_query")
WINDOWS = (2, 4, 8)
SPEC, PUBLISHED = "spec_attn", "spec_attn, as published"
PARTS = {
    "SPAttention": "untrained, its bands hold less mass than sink+recent",
    "SpecAttn": "drafted keys hold more mass than Quest's pages and cost less KL",
    "RetroAttention": "corrected outputs cost less KL than Quest at the same load",
}

SCRIPT = Script(
    "neighbours",
    "At equal budget SpecAttn's drafted keys and RetroAttention's corrections beat Quest's pages, "
    "while SPAttention's bands, untrained, hold less than sink and recent keys.",
    "needle-dense-sft",
    Size(TASKS, 1024, 4),
    Size(TASKS, 8160, 20),
    extra={
        "budgets": {"help": "keys a query may read, two of them (32,256; --full 256,2048)"},
        "page": {
            "type": int,
            "help": "tokens in a page of Quest and RetroAttention (4; --full 16)",
        },
        "exit": {"type": int, "default": 4, "help": "layers of the early-stopped draft (4)"},
        "text_length": {"type": int, "default": 384, "help": "tokens of a source text (384)"},
        "texts": {"type": int, "default": 6, "help": "source texts (6)"},
    },
)


def study(asked: Asked) -> Answer:
    """Captures, scores and runs the three, and judges their claims."""
    budgets = _budgets(asked)
    say("calibrate the layer map on other prompts")
    mapped = _layer_map(asked)
    say("capture and score")
    capture, scores = _scored(asked, mapped)
    say("answers, and the replay of source text")
    quality, text = _ran(asked, mapped, texts=False), _ran(asked, mapped, texts=True)
    names = _names(asked, mapped, capture)
    rows = _renamed(scores.frame(), names)
    lived = _renamed(pd.concat([quality.frame(), text.frame()], ignore_index=True), names)
    counted = rows[~rows["trivial"]]
    parts = judged(counted, lived, budgets, int(asked.more["exit"]), asked.seed)
    exposure = exposed(capture, budgets[0], _page(asked))
    inputs = {"scores": scores.manifest, "quality": quality.manifest, "text": text.manifest}
    figures = (
        draw_table(asked, "mass_by_budget", rows, inputs, stem="neighbours_mass"),
        draw_table(asked, "quality_by_budget_ratio", lived, inputs, stem="neighbours_quality"),
    )
    tables = {"summary": summary(rows, lived, asked.seed), "exposure": exposure}
    return Answer(verdict(parts, exposure), tables, figures)


def judged(
    rows: pd.DataFrame, lived: pd.DataFrame, budgets: tuple[int, ...], drafted: int, seed: int
) -> dict[str, list[Number]]:
    """The numbers of each part; each is a gain that the claim says is above 0.

    rows:    score rows that are not trivial; lived: quality rows, the source text's in mode replay.
    drafted: first layers that the draft shares with the model; mass is not judged in them.
    """
    small, large = budgets
    banded = by_prompt(rows[rows["budget"] == large], ["mass"])
    later = by_prompt(rows[(rows["budget"] == small) & (rows["layer"] >= drafted)], ["mass"])
    at_small = lived[(lived["budget"] == small) & (lived["mode"] == "replay")]
    texts = by_prompt(at_small[at_small["task"] == TEXT], ["kl"])

    def gain(prompts: pd.DataFrame, measure: str, one: str, over: str, unit: str) -> Number:
        found = losses(prompts, measure, over, one)  # what the other loses against it
        lies = interval(found, measure, seed)
        return Number.of(f"{measure}: {one} over {over}", lies, unit)

    return {
        "SPAttention": [gain(banded, "mass", "sink_recent", "sp_attention", "probability")],
        "SpecAttn": [
            gain(later, "mass", SPEC, "quest", "probability"),
            gain(texts, "kl", SPEC, "quest", "nats per token"),
        ],
        "RetroAttention": [gain(texts, "kl", "retro", "quest", "nats per token")],
    }


def verdict(parts: dict[str, list[Number]], exposure: pd.DataFrame) -> Verdict:
    """Each part judged by itself, then all of them."""
    findings = {
        name: all_of(*(at_least(number, 0.0) for number in numbers))
        for name, numbers in parts.items()
    }
    sentence = " ".join(_part(name, findings[name], parts[name]) for name in parts)
    at = exposure[exposure["window"] == WINDOWS[0]].iloc[0]
    exposed_to = Number(
        f"keys of a union of {WINDOWS[0]} steps over those of one", at["ratio"], at["low"],
        at["high"], int(at["prompts"]), "times",
    )  # fmt: skip
    numbers = tuple(number for group in parts.values() for number in group)
    return Verdict(
        all_of(*findings.values()), sentence, (*numbers, exposed_to),
        (
            "The draft is the model's own first layers, and in those the KL rests on the model's "
            "own attention; a draft of its own training would be another.",
            "SpecAttn gives all heads one set of keys, Quest and RetroAttention each head its own.",
            "SPAttention claims what training with its bands gives, which is not tried here.",
            "Quest and RetroAttention keep no page of sinks or of the query for certain, as others "
            "do; at a few pages that decides.",
        ),
    )  # fmt: skip


def _part(name: str, found: Finding, numbers: list[Number]) -> str:
    values = ", ".join(f"{number.name.split(':')[0]} {number}" for number in numbers)
    return f"{name}, {PARTS[name]}: {found.value} (gains: {values})."


def exposed(capture: Capture, load: int, page: int) -> pd.DataFrame:
    """How many keys a query's union holds, over those that one step loads: a row a window."""
    found = []
    for sample in capture.samples:
        for layer in capture.layers:
            record = capture.record(sample, layer)
            one = union_sizes(record, load, page, window=1).float()
            for window in (each for each in WINDOWS if each <= record.rows):
                whole = slice(0, record.rows - window + 1)  # windows that are not cut short
                union = union_sizes(record, load, page, window).float()
                ratio = float((union[:, whole] / one[:, whole]).mean())
                found.append((sample.id, window, ratio))
    frame = pd.DataFrame(found, columns=["sample", "window", "ratio"])
    each = frame.groupby(["window", "sample"])["ratio"].mean().reset_index()
    rows = []
    for window, own in each.groupby("window"):
        lies = mean(own["ratio"], own["sample"], lowest=1.0, highest=float(window))
        rows.append((window, load, lies.estimate, lies.low, lies.high, lies.clusters))
    return pd.DataFrame(rows, columns=["window", "load", "ratio", "low", "high", "prompts"])


def summary(rows: pd.DataFrame, lived: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Mean and interval over prompts of mass, KL on source text and right answers."""
    text, selects = lived["task"] == TEXT, lived["selector"] != "dense"
    sources = {
        "mass": rows[~rows["trivial"]],
        "kl": lived[text & selects & (lived["mode"] == "replay")],
        "score": lived[~text & selects & (lived["mode"] == "decode")],
    }
    found = []
    for measure, source in sources.items():
        for (selector, budget), own in source.groupby(["selector", "budget"], observed=True):
            means = own.groupby("sample", observed=True)[measure].mean()
            lies = interval(means, measure, seed, lowest=0.0)
            found.append(
                (measure, budget, selector, lies.estimate, lies.low, lies.high, lies.clusters)
            )
    names = ["measure", "budget", "selector", "mean", "low", "high", "prompts"]
    return pd.DataFrame(found, columns=names).sort_values(names[:3]).reset_index(drop=True)


def _layer_map(asked: Asked) -> Path:
    """The JSON list of the draft layer for each layer, calibrated on prompts of another seed."""
    reading = {**asked.reading(), "seed": asked.seed + 1, "samples": 2}
    taken = capture_step(
        **reading, output=asked.work / "calibration", positions="last:32", witnesses=0
    )
    path = asked.work / "layer-map.json"
    path.write_text(json.dumps(calibrated(taken, taken, int(asked.more["exit"]))))
    return path


def _scored(asked: Asked, mapped: Path) -> tuple[Capture, Scores]:
    capture = capture_step(
        **asked.reading(), output=asked.work / "capture", positions="last:32", witnesses=0
    )
    spec = _spec(str(capture.path), asked, mapped, dense=0)
    scores = score_step(
        capture=capture.path, output=asked.work / "scores",
        selectors=(*_paged(asked), "sp_attention", spec), budgets=_spelled(_budgets(asked)),
        targets=("per_head",), device=asked.device, **asked.again(),
    )  # fmt: skip
    return capture, scores


def _ran(asked: Asked, mapped: Path, texts: bool) -> Quality:
    """Decoding on the tasks, or the replay of source texts at the smaller budget."""
    reading, budgets, mode = asked.reading(), _budgets(asked), "decode"
    if texts:
        reading |= {"tasks": (TEXT,), "prompts": None}
        reading |= {"length": asked.more["text_length"], "samples": asked.more["texts"]}
        budgets, mode = budgets[:1], "replay"
    specs = tuple(_spec(asked.model, asked, mapped, dense) for dense in (0, 2))
    return quality_step(
        **reading, output=asked.work / ("text" if texts else "quality"), budgets=_spelled(budgets),
        selectors=(*_paged(asked), "sp_attention", *specs), modes=(mode,), tokens=24,
        entropy="none", batch=4,
    )  # fmt: skip


def _spec(draft: str, asked: Asked, mapped: Path, dense: int) -> str:
    return f"spec_attn:{draft}:exit={asked.more['exit']},layer_map={mapped},dense={dense}"


def _names(asked: Asked, mapped: Path, capture: Capture) -> dict[str, str]:
    """What a reader is shown for a selector that is spelled with paths."""
    return {
        _spec(str(capture.path), asked, mapped, 0): SPEC,
        _spec(asked.model, asked, mapped, 0): SPEC,
        _spec(asked.model, asked, mapped, 2): PUBLISHED,
        **{each: each.split(":")[0] for each in _paged(asked)},
    }


def _renamed(frame: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    return frame.assign(selector=frame["selector"].astype(str).replace(names))


def _budgets(asked: Asked) -> tuple[int, ...]:
    spelled = asked.more["budgets"] or ("256,2048" if asked.full else "32,256")
    budgets = tuple(sorted({*numbers("--budgets", spelled)}))
    if len(budgets) != 2:
        raise InputError(f"--budgets {spelled!r}: expected two different ones, as in 32,256")
    return budgets


def _page(asked: Asked) -> int:
    return int(asked.more["page"] or (16 if asked.full else 4))


def _paged(asked: Asked) -> tuple[str, str]:
    return f"quest:page={_page(asked)}", f"retro:page={_page(asked)}"


def _spelled(budgets: tuple[int, ...]) -> str:
    return ",".join(map(str, budgets))


if __name__ == "__main__":
    run(SCRIPT, study, __doc__)
