"""The figures of quality, entropy and their relation to fidelity."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from indexer_figures import FIGURES, Choice, FigureError, render, selector_looks, source_of
from indexer_figures.intervals import mean_intervals
from indexer_figures.render import _picture

EVERY = pytest.mark.parametrize("name", [n for n in FIGURES if source_of(n) != "scores"])
FEW = ("lightning", "exact", "random", "sink_recent")
MANY = (
    *FEW,
    *(f"dial:precision={p},fill={f},keep=best" for p in (0.25, 0.5) for f in ("next", "random")),
    "faiss:OPQ16_64,IVF256,PQ16:nprobe=64",
    "$x_1$ \\frac{1}",
    "_hidden",
    "n" * 300,
)
SHAPES = {
    "few": {},
    "many": {
        "selectors": MANY,
        "tasks": ("multi_key", "a" * 60, "c", "d", "e"),
        "budgets": (4, 64),
    },
    "deep": {"layers": range(61), "samples": 3},
    "one": {"samples": 1, "layers": (5,), "budgets": (8,), "tasks": ("multi_key",)},
}


def make(
    name: str,
    selectors: tuple[str, ...] = FEW,
    layers: tuple[int, ...] = (0, 1, 2),
    budgets: tuple[int, ...] = (4, 8, 16),
    tasks: tuple[str, ...] = ("multi_key", "source_text"),
    samples: int = 9,
) -> pd.DataFrame:
    """The table that a figure reads, by rule."""
    rows = []
    for task in tasks:
        for number in range(samples):
            one = {"sample": f"{task}-{number}", "task": task, "length": 1000 + 50 * number}
            for mode in ("replay", "decode"):
                rows.append({**one, "mode": mode, "selector": "dense", "budget": 0, "layer": -1,
                             **_numbers(mode, 1.0)})  # fmt: skip
                for order, selector in enumerate(selectors):
                    for budget in budgets:
                        for layer in (-1, *layers):
                            good = (9 - order % 9 + number % 3) / 12 * min(1, budget / 12 + 0.5)
                            rows.append({**one, "mode": mode, "selector": selector,
                                         "budget": budget, "layer": layer,
                                         **_numbers(mode, good)})  # fmt: skip
    frame = pd.DataFrame(rows)
    source = source_of(name)
    if source == "pairs":
        kept = frame[(frame["mode"] == "replay") & (frame["layer"] == -1)]
        kept = kept[kept["selector"] != "dense"]
        return kept.assign(recall=kept["agreement"], quality=kept["agreement"] ** 0.5, dense=1.0,
                           target="per_head")  # fmt: skip
    if source == "entropy":
        return _entropy_rows(frame, layers)
    if name == "loss_by_measure":
        return _losses(selectors, samples, len(tasks))
    if source == "study":
        kept = frame[(frame["mode"] == "replay") & (frame["layer"] == -1) & (frame["budget"] > 0)]
        x = kept["budget"] / 1000 if name == "gain_by_ratio" else kept["budget"]
        return kept.assign(panel=kept["task"], x=x, value=kept["agreement"] - 0.3)
    return frame.assign(entropy=1 + frame["length"] / 1000)


def _numbers(mode: str, good: float) -> dict[str, float]:
    known = {"agreement": good, "kl": 1 - good, "delta_nll": 1 - good, "score": np.nan}
    return known if mode == "replay" else {**dict.fromkeys(known, np.nan), "score": round(good)}


def _entropy_rows(frame: pd.DataFrame, layers: tuple[int, ...]) -> pd.DataFrame:
    whole = frame[frame["layer"] == -1]
    parts = []
    for layer in layers:
        for phase in ("prefill", "decode"):
            rows = whole.assign(layer=layer, phase=phase, entropy=0.5 + layer / 20)
            rows["selected_entropy"] = np.where(rows["selector"] == "dense", np.nan, 0.3)
            parts.append(rows if phase == "decode" else rows[rows["selector"] == "dense"])
    return pd.concat(parts, ignore_index=True)


def _losses(selectors: tuple[str, ...], samples: int, tasks: int) -> pd.DataFrame:
    rows = []
    for order, selector in enumerate(selectors):
        for step, measure in enumerate(("recall", "mass", "output_error", "kl", "score")):
            loss = (order - 1) * 10.0 ** (-step if measure != "kl" else 1)
            spread = np.nan if samples == 1 else abs(loss) * (0.2 + 0.5 * (step % 2)) + 0.01
            rows.append({"selector": selector, "reference": "lightning", "measure": measure,
                         "unit": "nats per token" if measure == "kl" else "share", "loss": loss,
                         "low": loss - spread, "high": loss + spread, "prompts": samples * tasks,
                         "budget": 32, "task": f"{tasks} tasks pooled"})  # fmt: skip
    return pd.DataFrame(rows)


@EVERY
def test_files_bytes_and_csv(name: str, tmp_path: Path) -> None:
    table = make(name)
    first = render(name, table, tmp_path / "a", {"seed": 1})
    second = render(name, table.sample(frac=1, random_state=3), tmp_path / "b", {"seed": 1})
    assert {path.suffix for path in first.paths} == {".png", ".svg", ".csv", ".json"}
    for one, other in zip(first.paths, second.paths, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    again = FIGURES[name].draw(
        pd.read_csv(tmp_path / "a" / f"{name}.csv"), selector_looks(table["selector"])
    )
    assert _picture(again, "png") == (tmp_path / "a" / f"{name}.png").read_bytes()
    assert first.reading.endswith(".")


@pytest.mark.parametrize("shape", SHAPES)
@EVERY
def test_text_fits_and_never_overlaps(
    name: str, shape: str, check_texts: Callable[[Figure], None]
) -> None:
    kind = FIGURES[name]
    figure = kind.draw(kind.table(make(name, **SHAPES[shape])))
    check_texts(figure)
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7
    assert figure.get_size_inches()[0] in (3.4, 7.0)


def test_intervals_resample_samples_by_hand() -> None:
    rows = pd.DataFrame({"sample": list("aab"), "g": [0, 0, 0], "y": [0.0, 1.0, 1.0]})
    found = mean_intervals(rows, ["g"], "y").iloc[0]
    assert found["samples"] == 2
    assert found["mean"] == 0.75  # a counts once
    assert (found["low"], found["high"]) == (0.5, 1.0)
    alone = mean_intervals(rows[rows["sample"] == "b"], ["g"], "y").iloc[0]
    assert np.isnan(alone["low"])


def test_ratio_and_quality_by_hand() -> None:
    table = FIGURES["quality_by_budget_ratio"].table(make("quality_by_budget_ratio", samples=1))
    row = table[(table["selector"] == "exact") & (table["budget"] == 8)].iloc[0]
    assert row["ratio"] == pytest.approx(8 / 1000)
    assert row["mean"] == 1  # 8 / 12 is nearer to 1
    assert row["dense"] == 1
    assert row["mode"] == "decode"


def test_swaps_show_the_smallest_budget_and_no_row_of_all_layers() -> None:
    table = FIGURES["kl_by_swapped_layer"].table(make("kl_by_swapped_layer"))
    assert set(table["layer"]) == {0, 1, 2}
    assert set(table["budget"]) == {4}
    assert len(table) == 3 * len(FEW)


def test_entropy_kinds_by_hand() -> None:
    table = FIGURES["entropy_distribution"].table(make("entropy_distribution"))
    assert table.groupby("kind")["median"].first().tolist() == pytest.approx([0.5, 0.3, 0.5])
    assert set(table["selector"]) == {"exact"}


def test_entropy_bins_hold_equally_many_samples() -> None:
    table = FIGURES["quality_by_entropy"].table(
        make("quality_by_entropy", tasks=("t",), samples=12)
    )
    assert table.groupby("selector")["samples"].apply(list).iloc[0] == [4, 4, 4]
    assert table.sort_values("bin")["entropy"].is_monotonic_increasing or len(table) > 3


def test_a_fault_is_seen_where_its_interval_lies_above_zero() -> None:
    rows = make("loss_by_measure").query("measure == 'recall'")[:3]
    rows = rows.assign(loss=[0.1, 0.2, -0.3], low=[-0.1, 0.1, -0.4], high=[0.3, 0.3, -0.2])
    table = FIGURES["loss_by_measure"].table(rows)
    assert table["loss"].tolist() == [0.2, 0.1, -0.3]  # the worst first
    assert table["seen"].tolist() == [True, False, False]
    assert FIGURES["loss_by_measure"].reading(table) == "Of 3 faults, seen by: recall 1."


def test_the_dials_settings_are_a_line_each() -> None:
    kind = FIGURES["quality_by_precision"]
    labels = [f"dial:precision={p},fill={f}" for p in (0.2, 0.6) for f in ("next", "random")]
    table = kind.table(make("quality_by_precision", selectors=(*labels, "dial:0.3", "exact")))
    assert set(table["series"]) == {"dial:fill=next", "dial:fill=random", "dial", "exact"}
    lines = {str(line.get_label()): line for line in kind.draw(table).axes[0].lines}
    assert len(lines["dial:fill=next"].get_xdata()) == 2


def test_precision_keeps_dense_and_intervals() -> None:
    table = FIGURES["quality_by_precision"].table(make("quality_by_precision"), Choice(budget=8))
    assert (table["dense"] == 1).all()
    assert (table["low"] <= table["mean"]).all()
    assert set(table["budget"]) == {8}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("kl_by_swapped_layer", lambda t: t[t["layer"] == -1], "--swap-layers"),
        ("kl_by_swapped_layer", lambda t: t.assign(kl=np.nan), "mode replay"),
        ("quality_by_entropy", lambda t: t.assign(entropy=np.nan), "--entropy none"),
        ("quality_by_budget_ratio", lambda t: t[t["selector"] == "dense"], "only the dense"),
        ("quality_by_budget_ratio", lambda t: t.drop(columns="score"), "no column 'score'"),
        ("entropy_distribution", lambda t: t[t["selector"] != "dense"], "dense model"),
        ("loss_by_measure", lambda t: t.drop(columns="reference"), "no column 'reference'"),
        ("loss_by_measure", lambda t: t.assign(loss=np.nan), "no loss is known"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    name: str, change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    with pytest.raises(FigureError, match=said):
        FIGURES[name].table(change(make(name)))
    with pytest.raises(FigureError, match="was not run; there are 4, 8, 16"):
        FIGURES["kl_by_swapped_layer"].table(make(name="kl_by_swapped_layer"), Choice(budget=5))
