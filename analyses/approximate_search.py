"""What approximate selectors keep of exact top-k's attention mass, against what they read.

    python analyses/approximate_search.py                       a minute or two on two CPU cores
    python analyses/approximate_search.py --full --device cuda  8,176 tokens, more prompts
    python analyses/approximate_search.py --model org/name --prompts mine.jsonl --budget 256

FAISS families, quantised scores, block, channel and component selectors and the reuse of a layer
pick the same number of keys for the same queries; a model with an indexer adds the indexer. Costs
are bytes of keys, codes or tables read, and multiply-adds (docs/tables.md). The claim is about one
quarter of the bytes that exact top-k reads. The best of several selectors under that limit is
taken, so intervals are widened by their number (Bonferroni).
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt

import pandas as pd

from indexer_lab.cli.scoring_step import score_step
from indexer_lab.cli.steps import capture_step
from indexer_lab.statistics.mean import mean
from indexer_lab.store.capture import Capture
from indexer_lab.store.scores import Scores
from indexer_probes.records import LayerRecord
from study import Answer, Asked, Finding, Number, Script, Size, Verdict, at_least, draw, run, say

LIMIT = 0.25  # of the bytes that exact top-k reads
BAR = 0.95  # of the mass that exact top-k keeps
TARGET = "per_head"
BASELINES = ("exact", "random", "sink_recent")
FIGURES = ("mass_by_bytes", "mass_by_multiply_adds", "recall_by_bytes", "recall_by_multiply_adds")
MEASURES = ["recall", "mass_ratio", "bytes_read", "multiply_adds"]
COLUMNS = ["sample", "selector", "level", "trivial", *MEASURES]

SCRIPT = Script(
    "approximate_search",
    "At an equal budget some approximate selector reads a quarter of the key bytes or less and "
    "keeps at least 95 % of the attention mass that exact top-k keeps.",
    "needle-dense",
    small=Size(("multi_key", "key_value"), 2032, 3),
    full=Size(("multi_key", "key_value", "variable_tracking", "source_text"), 8176, 8),
    extra={
        "budget": {"type": int, "default": 64, "help": "keys per query (64)"},
        "selector": {"action": "append", "help": "one more selector; repeatable"},
    },
)


def study(asked: Asked) -> Answer:
    say("capture")
    capture = capture_step(
        **asked.reading(), output=asked.work / "capture", witnesses=0,
        positions="last:256" if asked.full else "last:32",
    )  # fmt: skip
    say("score every selector")
    asked_for = (*candidates(_first(capture)), *(asked.more["selector"] or ()))
    scores = score_step(
        capture=capture.path, output=asked.work / "scores", selectors=asked_for,
        budgets=str(asked.more["budget"]), targets=(TARGET,), device=asked.device, **asked.again(),
    )  # fmt: skip
    table = compare(scores.frame(COLUMNS), asked.seed)
    return Answer(
        judge(table), {"selectors": table}, tuple(_figure(asked, name, scores) for name in FIGURES)
    )


def candidates(record: LayerRecord) -> tuple[str, ...]:
    """Selectors to compare, sized by the head dim and the length of a record."""
    dim, keys = record.queries.shape[-1], record.length
    few, some = max(1, dim // 8), max(1, dim // 4)
    lists = max(1, isqrt(keys) // 8 * 8)
    spelled = [
        *("faiss:SQ8", f"faiss:PQ{some}x4", f"faiss:IVF{lists},Flat:nprobe={max(1, lists // 8)}"),
        *("faiss:HNSW16:efSearch=64", "faiss:LSH"),
        *(f"quantised:precision={form}" for form in ("fp8", "int4", "sign")),
        *("quest:page=8", "quest:page=16", "block_mean:block=16", "hierarchical:block=16"),
        *(f"{name}={width}" for width in (few, some)
          for name in ("sparq:channels", "loki:rank", "double_sparsity:channels")),
        "reuse:every=2",
    ]  # fmt: skip
    if record.indexer is not None:
        half = max(1, len(record.indexer.queries) // 2)
        spelled += ["lightning", "lightning:precision=fp8", f"index_heads:heads={half}"]
    return tuple(spelled)


def compare(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A row a selector, dearest last: its cost as a share of exact's, and means over the prompts of
    mass ratio and recall, trivial rows left out.

    Intervals of the mass ratio are 95 % for all selectors within LIMIT together, the baselines
    aside, since the best of them is judged. What exact keeps of itself has none to give.
    """
    counting = scores[~scores["trivial"] & (scores["level"] == "token")]
    counting = counting.astype({"sample": str, "selector": str})
    each = counting.groupby(["selector", "sample"])[MEASURES].mean().reset_index()
    exact = each[each["selector"] == "exact"][["bytes_read", "multiply_adds"]].mean()
    costs = each.groupby("selector")[["bytes_read", "multiply_adds"]].mean() / exact
    judged = [name for name in costs.index if name not in BASELINES
              and costs.loc[name, "bytes_read"] <= LIMIT]  # fmt: skip
    rows = []
    for name, own in each.groupby("selector"):
        level = 1 - 0.05 / len(judged) if name in judged else 0.95
        kept = mean(own["mass_ratio"].clip(upper=1), own["sample"], level=level, seed=seed)
        found = mean(own["recall"], own["sample"], seed=seed)
        if name == "exact":
            kept, found = (replace(one, low=1.0, high=1.0) for one in (kept, found))
        rows.append(
            {"selector": name, "bytes_share": costs.loc[name, "bytes_read"],
             "multiply_add_share": costs.loc[name, "multiply_adds"], "judged": name in judged,
             "mass_ratio": kept.estimate, "mass_ratio_low": kept.low, "mass_ratio_high": kept.high,
             "recall": found.estimate, "recall_low": found.low, "recall_high": found.high,
             "prompts": kept.clusters, "reason": kept.reason}
        )  # fmt: skip
    return pd.DataFrame(rows).sort_values(["bytes_share", "selector"], ignore_index=True)


def judge(table: pd.DataFrame) -> Verdict:
    """The claim, by the selector within LIMIT whose interval reaches highest from below.

    One that reaches the bar supports it; it fails only where every selector's interval lies under.
    """
    judged = table[table["judged"]]
    if judged.empty:
        return Verdict(Finding.UNDECIDED, f"No selector reads {LIMIT:.0%} of the bytes or less.")
    numbers = {row["selector"]: _number(row) for _, row in judged.iterrows()}
    findings = {name: at_least(number, BAR) for name, number in numbers.items()}
    ranked = judged.sort_values(["mass_ratio_low", "mass_ratio"], ascending=False)
    best = ranked.iloc[0]
    finding = findings[best["selector"]]
    if finding is not Finding.SUPPORTED and Finding.UNDECIDED in findings.values():
        finding = Finding.UNDECIDED
    exhaustive = table[~table["judged"] & ~table["selector"].isin(BASELINES)]
    shown = [*ranked["selector"], *exhaustive.nlargest(1, "mass_ratio")["selector"]]
    by_name = table.set_index("selector")
    return Verdict(
        finding,
        f"{best['selector']} reads {best['bytes_share']:.1%} of the bytes and does "
        f"{best['multiply_add_share']:.1%} of the multiply-adds of exact top-k, and keeps "
        f"{numbers[best['selector']]} of its mass at a recall of {best['recall']:.2f}.",
        tuple(_number(by_name.loc[name].rename(name)) for name in shown),
        (
            f"Intervals of the {len(judged)} selectors within the limit hold together at 95 %.",
            "Bytes are counted, not measured: what a kernel gains by them is another question.",
        ),
    )


def _number(row: pd.Series) -> Number:
    name = row.get("selector", row.name)
    ends = row["mass_ratio"], row["mass_ratio_low"], row["mass_ratio_high"]
    return Number(f"mass ratio of {name}", *ends, int(row["prompts"]), reason=row["reason"])


def _first(capture: Capture) -> LayerRecord:
    return capture.record(capture.samples[0], capture.layers[0])


def _figure(asked: Asked, name: str, scores: Scores) -> str:
    return draw(
        asked, name, scores.path, stem=f"{asked.script}_{name}", target=TARGET,
        budget=asked.more["budget"],
    )  # fmt: skip


if __name__ == "__main__":
    run(SCRIPT, study, __doc__)
