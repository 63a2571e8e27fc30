"""`indexer-lab relate` on folders as score and quality write them."""

import json

import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner

from indexer_lab.cli import main
from indexer_lab.scoring import SCHEMA as SCORES
from indexer_lab.store import quality, scores
from indexer_lab.store.capture import SampleInfo
from indexer_lab.store.quality import SCHEMA as QUALITY
from indexer_lab.store.quality import SPEED, Sheets


def run(*words):
    return CliRunner().invoke(main, ["relate", *(str(word) for word in words)])


def table(rows, schema):
    """A table whose missing columns are null."""
    filled = {name: [row.get(name) for row in rows] for name in schema.names}
    return pa.table(
        {name: pa.array(values).cast(schema.field(name).type) for name, values in filled.items()},
        schema=schema,
    )


@pytest.fixture
def folders(tmp_path):
    """Twelve samples, three selectors, mass that decides quality."""
    kept = scores.create(tmp_path / "scores", {"model": "m", "targets": ["per_head"]})
    ran = quality.create(tmp_path / "quality", {"model": "m", "modes": ["replay"]})
    for number in range(12):
        info = SampleInfo(f"s{number}", "noise", 50 + number)
        rows, outcomes = [], []
        base = {"sample": info.id, "task": "noise", "length": info.length}
        whole = {**base, "mode": "replay", "layer": -1}
        outcomes.append({**whole, "selector": "dense", "budget": 0, "agreement": 1.0, "kl": 0.0})
        for selector, mass in (("exact", 0.98), ("faiss:Flat", 0.9), ("random", 0.1)):
            mass += 0.002 * ((number * 7) % 11)
            answer = {"selector": selector, "budget": 4, "target": "per_head", "level": "token"}
            numbers = {"recall": mass**2, "mass": mass, "output_error": None, "entropy": 0.1}
            numbers["entropy"] += number
            rows.append({**base, **answer, "layer": 0, "trivial": False, **numbers})
            outcome = {"selector": selector, "budget": 4, "agreement": mass, "kl": 1 - mass}
            outcomes.append({**whole, **outcome})
        kept.save(info, 0, table(rows, SCORES))
        ran.save(info, Sheets(table(outcomes, QUALITY), table([], SPEED), None))
    return tmp_path


def test_answers_are_printed_and_written(folders):
    out = folders / "relate"
    done = run(folders / "scores", folders / "quality", "--draws", 100, "-o", out)
    assert done.exit_code == 0, done.output
    assert "prompts: 12, pairs: 36" in done.output
    assert "p_holm is corrected for the" in done.output
    names = {"run.json", "origin.json", "pairs.csv", "swaps.csv", "relations.csv", "predictors.csv",
             "thresholds.csv"}  # fmt: skip
    assert {path.name for path in out.iterdir()} == names
    relations = pd.read_csv(out / "relations.csv")
    mass = relations[(relations["x"] == "mass") & (relations["method"] == "pearson")]
    assert mass["estimate"].iloc[0] == pytest.approx(1)
    unknown = relations[relations["x"] == "output_error"]
    assert (unknown["pairs"] == 0).all()
    assert unknown["reason"].str.contains("do not determine").all()
    assert json.loads((out / "run.json").read_text())["notes"]["prompts"] == 12


def test_the_same_seed_gives_the_same_bytes(folders):
    words = [folders / "scores", folders / "quality", "--draws", 50]
    for name in "ab":
        assert run(*words, "-o", folders / name, "--quiet").exit_code == 0
    for path in (folders / "a").iterdir():
        assert path.read_bytes() == (folders / "b" / path.name).read_bytes()
    again = run(*words, "-o", folders / "a")
    assert again.exit_code == 2
    assert "already holds a run" in again.stderr
    assert run(*words, "-o", folders / "a", "--resume", "--quiet").exit_code == 0
    assert run(*words, "-o", folders / "a", "--force", "--json").exit_code == 0


def test_wrong_input_is_one_line(folders):
    asked = [folders / "scores", folders / "quality"]
    for words, said in (
        ([*asked, "--share", 1.5], "--share 1.5"),
        ([*asked, "--target", "head_sum"], "the table holds per_head"),
        ([*asked, "--mode", "decode"], "the table holds replay"),
        ([*asked, "--draws", 3], "10 or more"),
        ([folders / "scores", folders / "scores"], "no quality folder"),
        ([folders / "none", folders / "quality"], "does not exist"),
    ):
        done = run(*words, "-o", folders / "out")
        assert done.exit_code == 2, done.output
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (folders / "out").exists()
