"""Folders as the commands leave them, small, with names that try to be markup."""

import pytest
from click.testing import CliRunner

from indexer_lab.cli import main
from indexer_lab.store import quality
from indexer_lab.store.capture import SampleInfo, create
from indexer_lab.store.quality import SCHEMA, SPEED, Sheets

from ..lab.conftest import LAYERS, make_record
from ..lab.test_relate_command import table

HOSTILE = '<script>document.title="owned"</script>'
ATTRIBUTE = '" onmouseover="document.title=\'owned\'" x="'
LONG = "an_id_without_any_break_" * 12
SAMPLES = [
    SampleInfo("first", HOSTILE, 40, "7"),
    SampleInfo(HOSTILE, "niah", 36, ATTRIBUTE),
    SampleInfo(LONG, "niah", 32, "</td></table><h1>owned</h1>"),
]
MODEL = "</title><img src=x onerror=\"document.title='owned'\">"


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def done(*words):
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """capture, scores, quality, relate and figures of three prompts."""
    root = tmp_path_factory.mktemp("runs")
    capture = create(
        root / "capture", {"model": MODEL, "layers": LAYERS, "dtype": "float32"}, SAMPLES
    )
    for number, sample in enumerate(SAMPLES):
        for layer in LAYERS:
            capture.save(sample, make_record(layer, sample.length, rows=12, seed=number))
    targets = ("--target", "per_head", "--target", "head_sum")
    picked = ("--selector", "lightning", "--selector", "lightning:precision=fp4")
    done("score", root / "capture", *picked, *targets, "--budget", "4,24", "-o", root / "scores")
    ran = quality.create(root / "quality", {"model": MODEL, "modes": ["replay"], "samples": 3})
    for number, sample in enumerate(SAMPLES):
        base = {"sample": sample.id, "task": sample.task, "length": sample.length}
        base |= {"mode": "replay", "layer": -1, "kl": 0.1, "delta_nll": 0.1}
        rows = [{**base, "selector": "dense", "budget": 0, "agreement": 1.0}]
        for selector, kept in (("lightning", 0.9), ("random", 0.2)):
            rows.append(
                {**base, "selector": selector, "budget": 4, "agreement": kept - number / 50}
            )
        ran.save(sample, Sheets(table(rows, SCHEMA), table([], SPEED)))
    done("relate", root / "scores", root / "quality", "--draws", "50", "-o", root / "relate")
    figures = ("--figure", "recall_by_layer", "--figure", "mass_by_budget")
    done("figures", root / "scores", *figures, "-o", root / "figures")
    return root


@pytest.fixture(scope="session")
def written(folders, tmp_path_factory):
    """The report of them all: its path."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    names = ("capture", "scores", "quality", "relate", "figures")
    done("report", *(folders / name for name in names), "-o", path)
    return path
