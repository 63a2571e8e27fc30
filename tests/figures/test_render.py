"""Properties that every figure keeps: files, numbers, text inside the canvas, same bytes."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from indexer_figures import FIGURES, Choice, render, selector_looks, source_of
from indexer_figures.render import _picture

OF_SCORES = [name for name in FIGURES if source_of(name) == "scores"]
EVERY = pytest.mark.parametrize("name", OF_SCORES)
PROVENANCE = {"command": "indexer-lab figures", "seed": 7, "digest": Path("a/b")}
MANY = (
    "faiss:HNSW32:efSearch=128",
    "faiss:OPQ16_64,IVF256,PQ16:nprobe=64",
    "lightning",
    "lightning:precision=fp4",
    "lightning:precision=fp8",
    "lightning:precision=fp8:hadamard=off",
    "quantised:precision=int8",
    "recorded:path=/data/selections/some-model/run-7.parquet",
    "z_index",
)
HOSTILE = (
    "$x_1$ \\frac{1}",
    "<script>alert('&')</script>",
    "_hidden",
    "tab\there\nline",
    "n" * 300,
)
SHAPES = {
    "one": {},
    "many": {"selectors": MANY},
    "hostile": {"selectors": HOSTILE},
    "deep": {"layers": range(61), "count": 4, "budgets": (64,)},
    "gaps": {"layers": (0, 3, 10, 11, 12, 27, 60), "budgets": (16, 20, 24, 32, 64, 100, 128, 256)},
    "single": {"layers": (5,), "count": 1, "budgets": (64,)},
    "baselines": {"selectors": ()},
}


@EVERY
def test_writes_four_whole_files(name: str, scores: pd.DataFrame, tmp_path: Path) -> None:
    rendered = render(name, scores, tmp_path, PROVENANCE)
    assert {path.name for path in rendered.paths} == {path.name for path in tmp_path.iterdir()}
    files = {path.suffix[1:]: path.read_bytes() for path in rendered.paths}
    assert set(files) == {"png", "svg", "csv", "json"}
    record = json.loads(files.pop("json"))
    assert files["png"].startswith(b"\x89PNG")
    assert record["sha256"] == {
        kind: hashlib.sha256(data).hexdigest() for kind, data in files.items()
    }
    assert record["provenance"] == {**PROVENANCE, "digest": "a/b"}
    assert record["reading"] == rendered.reading
    assert rendered.reading in record["alt"] == rendered.alt


def test_a_stem_names_the_files_and_changes_nothing_in_them(
    scores: pd.DataFrame, tmp_path: Path
) -> None:
    name = "recall_by_layer"
    plain = render(name, scores, tmp_path, PROVENANCE)
    other = render(name, scores, tmp_path, PROVENANCE, stem="other")
    assert (plain.stem, other.stem) == (name, "other")
    assert [path.name for path in other.paths] == [f"other{path.suffix}" for path in plain.paths]
    for one, two in zip(plain.paths, other.paths, strict=True):
        assert one.read_bytes() == two.read_bytes()


@EVERY
def test_same_input_same_bytes(name: str, scores: pd.DataFrame, tmp_path: Path) -> None:
    first = render(name, scores, tmp_path / "a", PROVENANCE).paths
    shuffled = scores.sample(frac=1, random_state=3)
    second = render(name, shuffled, tmp_path / "b", PROVENANCE).paths
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


@EVERY
def test_csv_alone_gives_the_same_picture(name: str, scores: pd.DataFrame, tmp_path: Path) -> None:
    paths = {path.suffix: path for path in render(name, scores, tmp_path, {}).paths}
    table = pd.read_csv(paths[".csv"])
    figure = FIGURES[name].draw(table, selector_looks(scores["selector"]))
    assert _picture(figure, "png") == paths[".png"].read_bytes()


LINES = {
    "recall_by_layer": ("layer", "median"),
    "mass_by_layer": ("layer", "median"),
    "recall_by_budget": ("budget", "median"),
    "mass_by_budget": ("budget", "median"),
    "recall_by_entropy": ("entropy", "median"),
    "recall_by_bytes": ("plotted_cost", "plotted_mean"),
    "recall_by_multiply_adds": ("plotted_cost", "plotted_mean"),
    "mass_by_bytes": ("plotted_cost", "plotted_mean"),
}


@pytest.mark.parametrize("selectors", [("lightning", "b"), MANY], ids=["overlay", "panels"])
@pytest.mark.parametrize("name", list(LINES))
def test_lines_plot_the_csv(
    name: str, selectors: tuple[str, ...], make_scores: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    scores = make_scores(selectors)
    render(name, scores, tmp_path, {})
    table = pd.read_csv(tmp_path / f"{name}.csv")
    figure = FIGURES[name].draw(table)
    x, y = LINES[name]
    drawn = set()
    for line in (line for ax in figure.axes for line in ax.lines):
        label = str(line.get_label())
        if label not in set(table["selector"]):
            continue
        own = table[table["selector"] == label].sort_values(x)
        np.testing.assert_array_equal(line.get_xdata(), own[x])
        np.testing.assert_array_equal(line.get_ydata(), own[y])
        drawn.add(label)
    assert drawn == set(table["selector"]) >= set(selectors)


BASELINES = {"exact", "random", "sink_recent"}


@pytest.mark.parametrize("alone", [False, True])
def test_bands_run_from_p10_to_p90(scores: pd.DataFrame, alone: bool) -> None:
    """Selectors have a band each; baselines only where there is nothing else to look at."""
    kind = FIGURES["recall_by_layer"]
    table = kind.table(scores)
    baseline = table["selector"].isin(BASELINES)
    table = table[baseline] if alone else table
    banded = table if alone else table[~baseline]
    ax = kind.draw(table).axes[0]
    edges = {
        (round(float(x), 9), round(float(y), 9))
        for band in ax.collections
        for path in band.get_paths()
        for x, y in path.vertices
    }
    fills = [band for band in ax.collections if type(band).__name__ == "FillBetweenPolyCollection"]
    assert len(fills) == banded["selector"].nunique() > 0
    for row in banded.to_dict("records"):
        assert (row["layer"], round(row["p10"], 9)) in edges
        assert (row["layer"], round(row["p90"], 9)) in edges


def test_heat_map_plots_the_csv(scores: pd.DataFrame) -> None:
    kind = FIGURES["recall_heat_map"]
    table = kind.table(scores)
    figure = kind.draw(table)
    for name, ax in zip(sorted(table["selector"].unique()), figure.axes, strict=False):
        own = table[table["selector"] == name].sort_values(["layer", "head"])
        cells = np.asarray(ax.collections[0].get_array()).ravel()
        np.testing.assert_array_equal(cells, own["mean"])


def test_distance_dots_plot_the_csv(scores: pd.DataFrame) -> None:
    kind = FIGURES["recall_by_distance"]
    table = kind.table(scores)
    for ax, distance in zip(kind.draw(table).axes, ("sink", "local", "far"), strict=True):
        own = table[table["distance"] == distance].set_index("selector")
        dots = {str(line.get_label()): line.get_xdata()[0] for line in ax.lines}
        dots.pop("_mean")
        assert dots == own["median"].to_dict()


def test_entropy_line_plots_the_csv(scores: pd.DataFrame) -> None:
    kind = FIGURES["entropy_by_layer"]
    table = kind.table(scores)
    lines = {str(line.get_label()): line for line in kind.draw(table).axes[0].lines}
    np.testing.assert_array_equal(lines["entropy"].get_ydata(), table["median"])
    np.testing.assert_array_equal(lines["_even"].get_ydata(), table["even_median"])


@EVERY
def test_trivial_rows_change_no_number(name: str, scores: pd.DataFrame) -> None:
    kind = FIGURES[name]
    real = scores[~scores["trivial"]]
    junk = real.assign(
        trivial=True, recall=0.0, mass=0.0, entropy=99.0, recall_far=0.0, bytes_read=1.0, visible=2
    )
    with_junk = kind.table(pd.concat([junk, real, junk], ignore_index=True))
    pd.testing.assert_frame_equal(
        kind.table(real).drop(columns="trivial_share"), with_junk.drop(columns="trivial_share")
    )
    assert with_junk["trivial_share"].tolist() == pytest.approx([2 / 3] * len(with_junk))


@pytest.mark.parametrize("shape", list(SHAPES))
@EVERY
def test_text_fits_and_never_overlaps(
    name: str,
    shape: str,
    make_scores: Callable[..., pd.DataFrame],
    check_texts: Callable[[Figure], None],
) -> None:
    kind = FIGURES[name]
    figure = kind.draw(kind.table(make_scores(**SHAPES[shape])))
    check_texts(figure)


@EVERY
def test_text_is_at_least_seven_points(name: str, scores: pd.DataFrame) -> None:
    kind = FIGURES[name]
    figure = kind.draw(kind.table(scores))
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7
    assert figure.get_size_inches()[0] in (3.4, 7.0)


@EVERY
def test_axes_are_named(name: str, make_scores: Callable[..., pd.DataFrame]) -> None:
    kind = FIGURES[name]
    figure = kind.draw(kind.table(make_scores(MANY)))
    words = " ".join(text.get_text() for text in figure.findobj(Text))
    assert re.search(r"layer|keys|nats|query|share", words)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert any(ax.get_xlabel() for ax in shown)
    assert any(ax.get_ylabel() or name == "recall_by_distance" for ax in shown)


@EVERY
def test_hostile_labels_are_drawn_as_spelled(
    name: str, make_scores: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    if name == "entropy_by_layer":
        pytest.skip("entropy belongs to no selector")
    asked = Choice(selectors=HOSTILE) if name == "loss_waterfall" else Choice()
    render(name, make_scores(HOSTILE), tmp_path, {}, asked)
    root = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
    tags = {element.tag.rsplit("}", 1)[-1] for element in root.iter()}
    assert "script" not in tags
    drawn = "".join("".join(root.itertext()).split())
    for label in ("$x_1$\\frac{1}", "<script>alert('&')</script>", "_hidden", "tab\\there\\nline"):
        assert label in drawn
    assert "…" in drawn  # of 300 letters, the middle ones
    assert "n" * 300 in (tmp_path / f"{name}.csv").read_text()


def test_colours_follow_the_selector_across_figures(scores: pd.DataFrame) -> None:
    looks = selector_looks(scores["selector"])
    for name in ("recall_by_layer", "recall_by_bytes", "recall_by_entropy"):
        kind = FIGURES[name]
        figure = kind.draw(kind.table(scores), looks)
        colours = {str(line.get_label()): line.get_color() for line in figure.axes[0].lines}
        for label in ("lightning", "lightning:precision=fp8", "random"):
            assert colours[label] == looks[label].colour


def test_interrupted_write_leaves_the_old_file(
    scores: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {
        path: path.read_bytes() for path in render("recall_by_layer", scores, tmp_path, {}).paths
    }

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        render("recall_by_layer", scores[scores["layer"] == 0], tmp_path, {})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_import_touches_no_backend_and_no_settings() -> None:
    program = (
        "import matplotlib; before = dict(matplotlib.rcParams.copy());"
        "import indexer_figures, sys;"
        "changed = [k for k, v in before.items() if dict.__getitem__(matplotlib.rcParams, k) != v];"
        "print(changed, 'indexer_lab' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[] False False"


def test_drawing_leaves_settings_and_pyplot_alone(scores: pd.DataFrame) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot

    before = mpl.rcParams.copy()
    for kind in map(FIGURES.get, OF_SCORES):
        kind.draw(kind.table(scores))
    # Asking pyplot for anything settles an undecided backend: that one is not ours to judge.
    changed = {key for key in before if mpl.rcParams[key] != before[key]} - {"backend"}
    assert changed == set()
    assert pyplot.get_fignums() == []
