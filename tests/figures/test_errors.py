"""What can't be drawn honestly is refused with what would fix it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from indexer_figures import FIGURES, Choice, FigureError, render, source_of

EVERY = pytest.mark.parametrize("name", [n for n in FIGURES if source_of(n) == "scores"])


@EVERY
def test_empty_table(name: str, scores: pd.DataFrame) -> None:
    with pytest.raises(FigureError, match="score table is empty"):
        FIGURES[name].table(scores.iloc[:0])


@EVERY
def test_every_row_trivial(name: str, scores: pd.DataFrame) -> None:
    with pytest.raises(FigureError, match=r"all [\d,]+ rows are trivial .* smaller budget"):
        FIGURES[name].table(scores.assign(trivial=True))


@EVERY
def test_trivial_rows_are_drawn_when_asked(name: str, scores: pd.DataFrame, tmp_path: Path) -> None:
    rendered = render(name, scores.assign(trivial=True), tmp_path, {}, Choice(trivial=True))
    assert (rendered.table["rows"] > 0).any()


@EVERY
def test_each_missing_column_is_named(name: str, scores: pd.DataFrame) -> None:
    for column in FIGURES[name].columns:
        with pytest.raises(FigureError, match=f"no column '{column}'"):
            FIGURES[name].table(scores.drop(columns=column))


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("recall_by_layer", "recall"),
        ("mass_by_layer", "mass"),
        ("recall_heat_map", "recall"),
        ("recall_by_budget", "recall"),
        ("mass_by_budget", "mass"),
        ("recall_by_bytes", "bytes_read"),
        ("recall_by_multiply_adds", "multiply_adds"),
        ("mass_by_bytes", "mass"),
        ("mass_by_multiply_adds", "multiply_adds"),
        ("entropy_by_layer", "entropy"),
        ("recall_by_entropy", "entropy"),
    ],
)
def test_a_column_of_nothing_is_named(name: str, column: str, scores: pd.DataFrame) -> None:
    with pytest.raises(FigureError, match=f"'{column}' holds nothing but NaN"):
        FIGURES[name].table(scores.assign(**{column: np.nan}))


def test_distances_may_lack_one_kind_of_key_but_not_all(scores: pd.DataFrame) -> None:
    kind = FIGURES["recall_by_distance"]
    table = kind.table(scores.assign(recall_sink=np.nan))
    assert (table.loc[table["distance"] == "sink", "rows"] == 0).all()
    assert "no such keys" in {text.get_text() for text in kind.draw(table).axes[0].texts}
    nothing = dict.fromkeys(["recall_sink", "recall_local", "recall_far"], np.nan)
    with pytest.raises(FigureError, match="nothing but NaN"):
        kind.table(scores.assign(**nothing))


@pytest.mark.parametrize("cost", [np.inf, -np.inf, -1.0])
def test_costs_that_are_no_costs(cost: float, scores: pd.DataFrame) -> None:
    with pytest.raises(FigureError, match="no selector states a finite 'bytes_read'"):
        FIGURES["recall_by_bytes"].table(scores.assign(bytes_read=cost))


def test_exact_alone_has_nothing_to_say_about_entropy(scores: pd.DataFrame) -> None:
    with pytest.raises(FigureError, match="score another selector"):
        FIGURES["recall_by_entropy"].table(scores[scores["selector"] == "exact"])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(target="head_sums"), "did you mean 'head_sum'"),
        (Choice(level="block"), "level 'block' is not in the scores"),
        (Choice(budget=77), "budget 77 was not scored; there are 64, 256"),
        (Choice(task="needle"), "did you mean 'needles'"),
        (Choice(selectors=("lightening",)), "did you mean 'lightning'"),
    ],
)
def test_a_choice_that_is_not_there(choice: Choice, message: str, scores: pd.DataFrame) -> None:
    with pytest.raises(FigureError, match=message):
        FIGURES["recall_by_layer"].table(scores, choice)


def test_infinite_recall_is_refused(scores: pd.DataFrame) -> None:
    with pytest.raises(FigureError, match="'recall' holds infinite values"):
        FIGURES["recall_by_layer"].table(scores.assign(recall=np.inf))


def test_unknown_figure_names_the_nearest(scores: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(FigureError, match="did you mean 'recall_by_layer'"):
        render("recal_by_layer", scores, tmp_path, {})


def test_a_refused_figure_leaves_no_file(scores: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(FigureError):
        render("recall_by_layer", scores.iloc[:0], tmp_path / "out", {})
    assert list(tmp_path.iterdir()) == []
