"""Each figure's numbers against numbers worked out by hand."""

import math

import pandas as pd
import pytest

from indexer_figures import FIGURES, Choice, FigureError, source_of, summarise


def row(selector: str = "a", **values: object) -> dict[str, object]:
    base: dict[str, object] = {
        "sample": "s", "task": "t", "target": "head_sum", "level": "token", "selector": selector,
        "budget": 4, "trivial": False, "layer": 0, "head": 0, "position": 9, "visible": 10,
        "length": 10, "recall": 0.5, "mass": 0.5, "entropy": 1.0, "recall_sink": 1.0,
        "recall_local": 0.5,
        "recall_far": 0.0, "bytes_read": 100.0, "multiply_adds": 10.0,
    }  # fmt: skip
    return base | values


def frame(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def test_summarise_gives_every_statistic() -> None:
    table = summarise(frame(*(row(recall=value / 10) for value in range(11))), ["layer"], "recall")
    assert table.iloc[0].to_dict() == pytest.approx(
        {"layer": 0, "rows": 11, "mean": 0.5, "median": 0.5, "p10": 0.1, "p90": 0.9, "p1": 0.01,
         "min": 0.0}
    )  # fmt: skip


def test_summarise_leaves_out_nan_and_trivial_but_keeps_the_group() -> None:
    rows = frame(
        row(recall=0.2), row(recall=math.nan), row(recall=1.0, trivial=True),
        row(layer=1, recall=math.nan),
    )  # fmt: skip
    table = summarise(rows, ["layer"], "recall")
    assert table["rows"].tolist() == [1, 0]
    assert table["mean"].iloc[0] == 0.2
    assert math.isnan(table["median"].iloc[1])
    assert summarise(rows, ["layer"], "recall", trivial=True)["mean"].iloc[0] == pytest.approx(0.6)


def test_summarise_keeps_infinite_values_without_inventing_nan() -> None:
    rows = frame(*(row(kl=value) for value in (0.0, 1.0, math.inf, math.inf)))
    table = summarise(rows, ["layer"], "kl")
    assert table["median"].iloc[0] == 1.0
    assert table["p90"].iloc[0] == math.inf


def test_by_layer_takes_the_largest_budget_that_is_not_trivial() -> None:
    rows = frame(
        row(recall=0.2), row(recall=0.6), row(recall=1.0, layer=3), row(budget=2, recall=0.0),
        row(budget=16, recall=1.0, trivial=True),
    )  # fmt: skip
    table = FIGURES["recall_by_layer"].table(rows)
    assert table["budget"].tolist() == [4, 4]
    assert table["layer"].tolist() == [0, 3]
    assert table["median"].tolist() == pytest.approx([0.4, 1.0])
    assert table["p10"].tolist() == pytest.approx([0.24, 1.0])
    assert table["overall_median"].tolist() == pytest.approx([0.6, 0.6])
    assert table["overall_rows"].tolist() == [3, 3]


def test_by_budget_gives_each_budget_its_own_trivial_share() -> None:
    rows = frame(row(mass=0.3), row(budget=8, mass=0.7), row(budget=8, mass=1.0, trivial=True))
    table = FIGURES["mass_by_budget"].table(rows)
    assert table["budget"].tolist() == [4, 8]
    assert table["median"].tolist() == [0.3, 0.7]
    assert table["trivial_share"].tolist() == [0.0, 0.5]


def test_heat_map_prefers_per_head_and_leaves_out_baselines() -> None:
    rows = frame(
        row(target="per_head", recall=0.2), row(target="per_head", recall=0.4),
        row(target="per_head", head=1, recall=1.0), row(target="per_head", selector="random"),
        row(target="head_sum"),
    )  # fmt: skip
    table = FIGURES["recall_heat_map"].table(rows)
    assert table["target"].unique().tolist() == ["per_head"]
    assert table["selector"].tolist() == ["a", "a"]
    assert table["mean"].tolist() == pytest.approx([0.3, 1.0])


def test_heat_map_shows_baselines_when_asked() -> None:
    rows = frame(row(), row(selector="random"))
    table = FIGURES["recall_heat_map"].table(rows, Choice(selectors=("random",)))
    assert table["selector"].tolist() == ["random"]


def test_cost_marks_the_pareto_points_and_places_what_has_no_place() -> None:
    rows = frame(
        row("exact", recall=1.0, bytes_read=800.0), row("a", recall=0.5, bytes_read=100.0),
        row("dominated", recall=0.5, bytes_read=200.0), row("free", recall=0.0, bytes_read=0.0),
        row("unstated", recall=0.9, bytes_read=math.inf),
    )  # fmt: skip
    table = FIGURES["recall_by_bytes"].table(rows).set_index("selector")
    assert table["pareto"].to_dict() == {
        "a": True, "dominated": False, "exact": True, "free": True, "unstated": False,
    }  # fmt: skip
    assert table.loc["a", "plotted_cost"] == 100.0
    assert 0 < table.loc["free", "plotted_cost"] < 100.0
    assert table.loc["free", "cost"] == 0.0
    assert math.isnan(table.loc["unstated", "plotted_cost"])
    assert table.loc["a", "plotted_mean"] == 0.5
    assert 0.9 < table.loc["exact", "plotted_mean"] < 1.0
    assert 0.0 < table.loc["free", "plotted_mean"] < 0.5


def test_perfect_recall_sits_half_a_row_from_one() -> None:
    rows = frame(*(row(recall=1.0) for _ in range(50)), *(row("b", recall=0.5) for _ in range(50)))
    table = FIGURES["recall_by_bytes"].table(rows).set_index("selector")
    assert table.loc["a", "plotted_mean"] == pytest.approx(1 - 1 / 100)


def test_nearly_perfect_recall_is_never_drawn_as_perfect() -> None:
    nearly = [row("b", recall=1.0 - 0.01 * (index == 0)) for index in range(50)]
    rows = frame(*(row(recall=1.0) for _ in range(50)), *nearly)
    table = FIGURES["recall_by_bytes"].table(rows).set_index("selector")
    assert table.loc["b", "plotted_mean"] == table.loc["b", "mean"] == pytest.approx(0.9998)
    assert table.loc["a", "plotted_mean"] == pytest.approx(0.9999)


def test_by_distance_leaves_out_rows_without_such_keys() -> None:
    rows = frame(row(recall_sink=math.nan), row(recall_sink=0.25, recall_local=1.0))
    table = FIGURES["recall_by_distance"].table(rows).set_index("distance")
    assert table["rows"].to_dict() == {"sink": 1, "local": 2, "far": 2}
    assert table["mean"].to_dict() == {"sink": 0.25, "local": 0.75, "far": 0.0}


def test_entropy_counts_a_query_once_whatever_the_selectors() -> None:
    rows = frame(
        row("a", entropy=1.0),
        row("b", entropy=1.0),
        row("a", position=10, entropy=3.0, visible=100),
    )
    table = FIGURES["entropy_by_layer"].table(rows)
    assert table["rows"].tolist() == [2]
    assert table["median"].tolist() == [2.0]
    assert table["even_median"].iloc[0] == pytest.approx((math.log(10) + math.log(100)) / 2)


def test_by_entropy_bins_every_row_once_and_leaves_exact_out() -> None:
    low = [row(entropy=0.0, recall=0.9), row(entropy=0.4, recall=0.7)]
    high = [row(entropy=1.6, recall=0.1), row(entropy=2.0, recall=0.3)]
    many = (low + high) * 3  # twelve rows: two bins of width 1
    exact = [row("exact", entropy=0.0, recall=1.0)]
    table = FIGURES["recall_by_entropy"].table(frame(*many, *exact))
    assert table["selector"].unique().tolist() == ["a"]
    assert table["entropy"].tolist() == [0.5, 1.5]
    assert table["bin_rows"].tolist() == table["rows"].tolist() == [6, 6]
    assert table["median"].tolist() == pytest.approx([0.8, 0.2])


def test_choice_narrows_to_what_was_asked() -> None:
    rows = frame(
        row(recall=0.1), row(recall=0.2, task="u"), row(recall=0.3, level="unit"),
        row(recall=0.4, target="per_head"), row(recall=0.6, budget=2),
    )  # fmt: skip
    kind = FIGURES["recall_by_layer"]

    def shown(choice: Choice) -> list[float]:
        return kind.table(rows, choice)["mean"].tolist()

    assert shown(Choice(task="u")) == [0.2]
    assert shown(Choice(level="unit")) == [0.3]
    assert shown(Choice(target="per_head")) == [0.4]
    assert shown(Choice(budget=2)) == [0.6]
    assert shown(Choice()) == pytest.approx([0.15])


def test_readings_say_the_numbers() -> None:
    rows = frame(
        row(recall=0.25), row(layer=3, recall=0.75, entropy=2.0), row("random", recall=0.125),
        row("exact", mass=0.75), row("exact", layer=3, mass=0.75, entropy=2.0),
    )  # fmt: skip
    of_scores = [name for name in FIGURES if source_of(name) == "scores"]
    said = {name: FIGURES[name].reading(FIGURES[name].table(rows)) for name in of_scores}
    assert said["recall_by_layer"] == (
        "a finds 50.0 % of the exact keys at 4 keys, median over 2 rows (random: 12.5 %); "
        "worst layer 0 (25.0 %)."
    )
    assert "mean recall 25.0 % over 1 row at 4 keys" in said["recall_heat_map"]
    assert "50.0 % (p10 30.0 %), at 100 B" in said["recall_by_bytes"]
    assert "far 0 %, local 50.0 %, sink 100 %" in said["recall_by_distance"]
    assert "1.00 nats (2.7 effective keys) in layer 0" in said["entropy_by_layer"]
    assert said["loss_waterfall"] == (
        "a loses 50.0 % of the attention mass at 4 keys: budget 25.0 %, a 25.0 %."
    )


def waterfall(masses: dict[str, tuple[float, float]], target: str = "per_head") -> list[dict]:
    """One row of each of two samples: selector -> mass."""
    return [
        row(selector, target=target, sample=sample, mass=mass, layer=0, head=0, position=99)
        for selector, pair in masses.items()
        for sample, mass in zip(("s0", "s1"), pair, strict=True)
    ]


def test_a_waterfall_by_hand() -> None:
    rows = frame(
        *waterfall({"exact": (0.9, 0.8), "lightning": (0.7, 0.5), "index_heads:heads=1": (0.6, 0.6),
                    "lightning:precision=fp8": (0.7, 0.4), "random": (0.1, 0.1)}),
        *waterfall({"exact": (0.8, 0.7), "lightning": (0.7, 0.5)}, target="head_sum"),
    )  # fmt: skip
    table = FIGURES["loss_waterfall"].table(rows).set_index("step")
    losses = {"budget": 0.15, "sharing": 0.1, "indexer": 0.15, "fp8": 0.05}
    assert table["loss"].to_dict() == pytest.approx(losses)
    assert table["start"].to_dict() == pytest.approx(
        {"budget": 0.0, "sharing": 0.15, "indexer": 0.25, "fp8": 0.4}
    )
    assert table["end"].iloc[-1] == pytest.approx(1 - (0.7 + 0.4) / 2)
    assert table["loss"].sum() == pytest.approx(table["end"].iloc[-1])
    assert table.loc["sharing", "selector"] == "exact:head_sum"
    assert (table.loc["sharing", "low"], table.loc["sharing", "high"]) == pytest.approx((0.1, 0.1))
    asked = Choice(selectors=("lightning", "index_heads:heads=1"))
    chosen = FIGURES["loss_waterfall"].table(rows, asked).set_index("step")
    assert chosen["loss"].to_dict() == pytest.approx(
        {"budget": 0.15, "sharing": 0.1, "indexer": 0.15, "fewer heads": 0.0}
    )


def test_a_waterfall_without_targets_or_indexer_says_what_it_has() -> None:
    rows = frame(*waterfall({"exact": (0.9, 0.9), "faiss:Flat": (0.9, 0.9), "quest": (0.5, 0.5)}))
    table = FIGURES["loss_waterfall"].table(rows)
    assert table["step"].tolist() == ["budget", "ANN"]  # the best selector, where none was chosen
    assert table["loss"].tolist() == pytest.approx([0.1, 0.0])


def test_a_waterfall_refuses_steps_on_other_rows() -> None:
    parts = waterfall({"exact": (0.9, 0.9), "lightning": (0.5, 0.5)})
    with pytest.raises(FigureError, match="'lightning' was not scored on the rows of the step"):
        FIGURES["loss_waterfall"].table(frame(*parts[:-1]))
    with pytest.raises(FigureError, match="'nothing' is not in the scores"):
        FIGURES["loss_waterfall"].table(frame(*parts), Choice(selectors=("nothing",)))
    with pytest.raises(FigureError, match="no row of 'exact'"):
        FIGURES["loss_waterfall"].table(frame(*parts[2:]))


def test_conditions_by_hand() -> None:
    rows = frame(
        *(row(sample=f"s{n}", task=task, length=length, layer=layer, recall=recall, depth=depth)
          for n, (task, length, layer, recall, depth) in enumerate(
              [("a", 1000, 0, 0.2, 0.1), ("a", 1040, 0, 0.4, 0.5), ("b", 2000, 0, 0.6, 0.99),
               ("b", 2150, 0, 1.0, 1.0)])),
    )  # fmt: skip
    table = FIGURES["fidelity_by_condition"].table(rows)
    assert set(table["measure"]) == {"recall", "mass"}  # no output error in these scores
    own = table[table["measure"] == "recall"]
    means = {
        condition: part.set_index("value")["mean"].to_dict()
        for condition, part in own.groupby("condition")
    }
    assert means == {
        "length": pytest.approx({"1,020": 0.3, "2,075": 0.8}),
        "depth": pytest.approx({"first": 0.2, "middle": 0.4, "last": 0.8}),
        "task": pytest.approx({"a": 0.3, "b": 0.8}),
    }
    assert own[own["condition"] == "task"]["samples"].tolist() == [2, 2]
    reading = FIGURES["fidelity_by_condition"].reading(table)
    assert "fewest by depth: first (20.0 %); fewest by task: a (30.0 %)" in reading
