"""The indexer's precision and its verdict, on score tables made by hand."""

import pandas as pd
import pytest
from indexer_precision import SHIPPED, compare, judge, named, pictured

from indexer_figures import FIGURES, Choice
from indexer_lab.errors import InputError
from study import Finding

PROMPTS = 6


def scores(indexer=0.6, ceiling=0.65, spread=0.0):
    """Two rows a prompt that count and one that is trivial."""
    recalls = {"exact": 1.0, "lightning": indexer, "exact:best_shared": ceiling,
               "exact:head_sum": ceiling, "random": 0.1, "sink_recent": 0.3}  # fmt: skip
    rows = []
    for prompt in range(PROMPTS):
        for target in ("per_head", "head_sum"):
            for selector, recall in recalls.items():
                for layer in (0, 1, 2):
                    own = recall + spread * (-1) ** prompt * (selector == "lightning")
                    rows.append(
                        {"sample": f"p{prompt}", "task": "t", "length": 900 + 100 * (prompt % 2),
                         "layer": layer, "selector": selector, "target": target, "level": "token",
                         "budget": 8, "trivial": layer == 2,
                         "recall": 0.0 if layer == 2 else own + 0.05 * (layer - 0.5) * (own < 1),
                         "mass": 0.0 if layer == 2 else min(1.0, own + 0.2),
                         "output_error": 9.0 if layer == 2 else 1.5 * (1 - own),
                         "depth": prompt / PROMPTS}
                    )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("frame", "finding"),
    [
        (scores(indexer=0.62, ceiling=0.65), Finding.SUPPORTED),
        (scores(indexer=0.40, ceiling=0.65), Finding.NOT_SUPPORTED),
        (scores(indexer=0.585, ceiling=0.65, spread=0.1), Finding.UNDECIDED),
        (scores(indexer=0.62).query("sample in ('p0', 'p1', 'p2')"), Finding.UNDECIDED),
    ],
)
def test_the_share_of_the_ceiling_decides(frame, finding):
    assert judge({SHIPPED: frame}).finding is finding


def test_numbers_are_means_over_prompts_without_trivial_rows():
    verdict = judge({SHIPPED: scores(indexer=0.6, ceiling=0.8)})
    numbers = {number.name: number for number in verdict.numbers}
    assert numbers["recall of each head's top-k"].estimate == pytest.approx(0.6)
    assert numbers["the same, best shared set"].estimate == pytest.approx(0.8)
    assert numbers["recall, of the best shared set's"].estimate == pytest.approx(0.75)
    assert numbers["mass"].estimate == pytest.approx(0.8)
    assert numbers["mass"].n == PROMPTS


def test_every_target_is_compared_with_its_own_ceiling():
    table = compare(scores(indexer=0.6, ceiling=0.8)).set_index(["target", "selector"])
    for target in ("per_head", "head_sum"):
        assert table.loc[(target, "lightning"), "of_ceiling"] == pytest.approx(0.75)
        assert table.loc[(target, "exact:best_shared"), "of_ceiling"] == pytest.approx(1.0)
        assert table.loc[(target, "lightning"), "output_error"] == pytest.approx(0.6)
    assert len(table) == 12


def test_other_stages_are_paired_with_the_shipped_model():
    frames = {SHIPPED: scores(indexer=0.6), "warmup": scores(indexer=0.5)}
    numbers = {number.name: number for number in judge(frames).numbers}
    assert numbers["recall, warmup less as it is"].estimate == pytest.approx(-0.1)
    shown = pictured(frames)
    assert set(shown["selector"]) == {
        "lightning", "exact:best_shared", "sink_recent", "random", "lightning, warmup"
    }  # fmt: skip


def test_the_figure_has_a_panel_for_each_condition():
    shown = pictured({SHIPPED: scores()})
    table = FIGURES["fidelity_by_condition"].table(shown, Choice(target="per_head"))
    assert list(table["condition"].unique()) == ["layer", "length", "depth"]  # one task: no panel
    assert set(table["measure"]) == {"recall", "mass", "output_error"}
    own = table[(table["selector"] == "lightning") & (table["measure"] == "recall")]
    layers = own[own["condition"] == "layer"].set_index("value")["mean"]
    assert layers.to_dict() == pytest.approx({"0": 0.575, "1": 0.625})
    depths = own[own["condition"] == "depth"]
    assert depths["value"].tolist() == ["first", "middle", "last"]
    assert depths["samples"].tolist() == [2, 2, 2]


def test_stages_are_spelled_name_and_model():
    assert named(["warmup=runs/a", "sparse=b=c"]) == {"warmup": "runs/a", "sparse": "b=c"}
    for wrong in (["warmup"], ["=x"], ["a="], ["a=x", "a=y"], [f"{SHIPPED}=x"]):
        with pytest.raises(InputError, match="NAME=MODEL"):
            named(wrong)
