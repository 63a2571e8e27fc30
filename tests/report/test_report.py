"""The report as HTML: what it says, what it leaves inert, what it refuses."""

import json
import re
import shutil
from itertools import pairwise

import pandas as pd
import pytest

from indexer_lab.report.content import MOST_ROWS, cell, table
from indexer_lab.scoring import SCHEMA
from indexer_lab.store import scores
from indexer_lab.store.capture import SampleInfo
from study import Answer, Finding, Number, Script, Size, Verdict
from study.arguments import ask
from study.running import publish

from ..lab.test_relate_command import table as filled
from .conftest import ATTRIBUTE, HOSTILE, LONG, MODEL, done, run
from .reading import Tree


@pytest.fixture(scope="module")
def source(written):
    return written.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(source):
    return Tree(source)


def report(output, *folders):
    result = done("report", *folders, "--no-figures", "-o", output)
    return result, Tree(output.read_text(encoding="utf-8"))


def test_it_is_whole_and_well_formed(tree):
    assert tree.broken == []
    assert tree.open == []
    assert tree.all("html") == [{"lang": "en"}]
    identifiers = [attributes["id"] for _, attributes in tree.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {link["href"][1:] for link in tree.all("a")} <= set(identifiers)
    assert all(image["alt"] for image in tree.all("img"))
    assert len(tree.all("img")) == 2


def test_headings_go_down_one_step_at_a_time(tree):
    levels = [int(tag[1]) for tag, _ in tree.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_verdicts_come_first_and_name_what_they_are_about(tree):
    sections = [attributes["id"] for attributes in tree.all("section")]
    assert sections == ["verdicts", "warnings", "asked", "waterfall", "figures", "tables",
                        "trivial", "prompts", "repeat", "words"]  # fmt: skip
    said = " ".join(tree.text["p"])
    for piece in ("lightning finds", "target per_head", "target head_sum", "chance",
                  "chooses the dense model's token", "prompts are far too few"):  # fmt: skip
        assert piece in said, piece


def test_nothing_is_fetched_and_no_other_script_may_run(source, tree):
    for _, attributes in tree.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    assert "url(" not in source
    assert "@import" not in source
    assert len(tree.all("script")) == 1
    policy = next(m["content"] for m in tree.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_hostile_names_are_text(source, tree):
    for hostile in (HOSTILE, ATTRIBUTE, MODEL):
        assert hostile not in source
    cells = tree.text["td"]
    assert HOSTILE in cells
    assert " ".join(ATTRIBUTE.split()) in cells
    assert LONG in cells
    assert MODEL in " ".join(tree.text["title"])
    assert not any("onmouseover" in attributes for _, attributes in tree.tags)
    assert not any("onerror" in attributes for _, attributes in tree.tags)


def test_warnings_tell_what_a_reader_must_know(tree):
    warned = " ".join(tree.text["li"])
    assert "3 prompts alone" in warned
    assert "At 24 keys" not in warned  # 4 of 36 rows are trivial there: not many
    assert "scored selections were never run on the model" in warned


def test_trivial_rows_are_warned_of_and_counted(folders, tmp_path):
    targets = ("--target", "head_sum")
    scores = tmp_path / "scores"
    done("score", folders / "capture", *targets, "--budget", "4,30,40", "-o", scores)
    _, tree = report(tmp_path / "r.html", scores)
    warned = " ".join(tree.text["li"])
    assert "At 30 keys 50.0 % of the rows see no more keys than the budget" in warned
    assert "At 40 keys all rows are trivial" in warned
    assert "100.0 %" in tree.text["td"]


def test_the_waterfall_says_where_the_mass_went(folders, tree, tmp_path):
    names = tree.text["span"]
    for step in ("full attention", "the budget", "one set for all heads", "the indexer",
                 "precision=fp4", "kept"):  # fmt: skip
        assert step in names, step
    result = done("report", folders / "scores", "--no-figures", "--json", "-o", tmp_path / "r.html")
    falls = json.loads(result.stdout)["waterfalls"]
    assert {fall["title"].split(",")[1].split()[0] for fall in falls} == {"4", "24"}


def test_commands_and_provenance_are_there(folders, tree):
    made = json.loads((folders / "scores" / "origin.json").read_text())
    assert made["command"] in tree.text["pre"]
    assert "capture, scores, quality, relate, figures" in " ".join(tree.text["p"])
    assert any("torch" in text for text in tree.text["dd"])


def test_numbers_sort_by_value_and_missing_ones_are_last(tree):
    keys = [cell.get("data-key") for cell in tree.all("td")]
    assert all(key is not None for key in keys)
    heads = tree.all("th")
    assert all(head["aria-sort"] == "none" and head["scope"] == "col" for head in heads)
    assert len(tree.all("button")) == len(heads)


def test_a_long_table_is_cut_and_says_so():
    found = table("t", ("n",), ((number,) for number in range(MOST_ROWS + 1)), "A note.")
    assert len(found.rows) == MOST_ROWS
    assert found.note == "A note. The first 2,000 of 2,001 rows."
    assert found.numeric == [True]


def test_what_is_not_finite_sorts_as_what_it_is():
    keys = [cell(value).key for value in (float("inf"), float("-inf"), float("nan"), None, 2.5, 7)]
    assert keys == ["Infinity", "-Infinity", "", "", "2.5", "7"]


def test_a_figure_is_drawn_where_none_was_given(folders, tmp_path):
    out = tmp_path / "r.html"
    done("report", folders / "quality", "-o", out)
    tree = Tree(out.read_text(encoding="utf-8"))
    assert len(tree.all("img")) >= 1
    assert all(image["src"].startswith("data:image/png;base64,") for image in tree.all("img"))


def test_units_have_a_table_of_their_own(tmp_path):
    base = {"sample": "a", "task": "t", "length": 40, "layer": 0, "head": 0, "position": 30,
            "sets": 1, "trivial": False, "selector": "lightning", "target": "head_sum"}  # fmt: skip
    rows = [
        {**base, "level": "token", "budget": 8, "recall": 0.5, "mass": 0.5},
        {**base, "level": "unit", "budget": 2, "recall": 0.125, "mass": 0.25},
    ]
    kept = scores.create(tmp_path / "scores", {"model": "m", "layers": [0], "samples": 1})
    kept.save(SampleInfo("a", "t", 40), 0, filled(rows, SCHEMA))
    _, tree = report(tmp_path / "r.html", tmp_path / "scores")
    assert "The same, counted in units of several tokens" in tree.text["span"]
    (sentence,) = (text for text in tree.text["p"] if text.startswith("With 8 keys"))
    assert "lightning finds 50.0 % of" in sentence
    assert "0.125" in tree.text["td"]


def test_an_empty_run_says_so(folders, tmp_path):
    scores = tmp_path / "scores"
    shutil.copytree(folders / "scores", scores)
    shutil.rmtree(scores / "parts")
    result, tree = report(tmp_path / "r.html", scores)
    assert "This run is empty" in " ".join(tree.text["li"])
    assert "There is no verdict" in " ".join(tree.text["p"])
    assert "warning: scores: This run is empty" in result.stdout


def test_a_half_written_run_says_so_and_shows_what_is_there(folders, tmp_path):
    for name in ("capture", "scores", "quality"):
        shutil.copytree(folders / name, tmp_path / name)
    next((tmp_path / "capture" / "samples" / "first").glob("*.safetensors")).unlink()
    next((tmp_path / "scores" / "parts" / "first").glob("*.parquet")).unlink()
    (tmp_path / "quality" / "parts" / "first.parquet").unlink()
    _, tree = report(tmp_path / "r.html", *(tmp_path / n for n in ("capture", "scores", "quality")))
    warned = " ".join(tree.text["li"])
    assert "This capture is unfinished: 1 prompt of 3" in warned
    assert "This run is unfinished: 5 of 6 parts" in warned
    assert "This run is unfinished: 2 of 3 prompts" in warned
    assert "lightning finds" in " ".join(tree.text["p"])


def test_a_damaged_part_is_named_and_the_rest_is_shown(folders, tmp_path):
    shutil.copytree(folders / "scores", tmp_path / "scores")
    next((tmp_path / "scores" / "parts" / "first").glob("*.parquet")).write_bytes(b"PAR1")
    _, tree = report(tmp_path / "r.html", tmp_path / "scores", folders / "quality")
    assert "is damaged" in " ".join(tree.text["li"])
    assert "chooses the dense model's token" in " ".join(tree.text["p"])


def test_folders_that_do_not_belong_together_are_told(folders, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folders / "capture", other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "model": "another"}))
    _, tree = report(tmp_path / "r.html", other, folders / "scores")
    warned = " ".join(tree.text["li"])
    assert "of different models" in warned
    assert "scores was made from another capture folder" in warned


VERDICT = {
    "kind": "verdict", "schema_version": 1, "script": "entropy", "claim": "Entropy falls.",
    "finding": "not supported", "sentence": f"It rose by 0.20 {HOSTILE}.",
    "numbers": [{"name": "rise", "estimate": 0.2, "low": 0.1, "high": None, "n": 40,
                 "unit": "nats", "reason": ""}],
    "caveats": ["One model."], "figures": ["b", "a"], "tables": [], "seconds": 1.0,
    "command": "python analyses/entropy.py", "commit": "abc-dirty", "versions": {"torch": "2.12.1"},
    "settings": {"model": "needle-sft", "length": 2048, "prompts": None},
}  # fmt: skip


def test_verdicts_of_the_study_are_read_with_their_figures(folders, tmp_path):
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    (gallery / "entropy.json").write_text(json.dumps(VERDICT))
    (gallery / "tables.json").write_text("[1, 2]")
    (gallery / "broken.json").write_text("{")
    for name, drawn in (("a", "recall_by_layer"), ("b", "mass_by_budget")):
        for suffix in ("png", "json", "csv"):
            shutil.copy(folders / "figures" / f"{drawn}.{suffix}", gallery / f"{name}.{suffix}")
    _, tree = report(tmp_path / "r.html", gallery)
    assert "Entropy falls." in tree.text["h3"]
    assert "not supported" in tree.text["strong"]
    assert f"It rose by 0.20 {HOSTILE}." in tree.text["p"]
    assert "One model." in tree.text["p"]
    assert "python analyses/entropy.py" in tree.text["pre"]
    assert "model needle-sft, length 2048, 1 seconds" in tree.text["dd"]
    assert "torch 2.12.1" in tree.text["dd"]
    assert tree.text["h1"] == ["Which keys were missed, and what did that cost? needle-sft"]
    assert "gallery: Made from a checkout with" in " ".join(tree.text["li"])
    assert [title for title in tree.text["h3"] if "layer" in title or "budget" in title] == [
        "Attention mass against budget",
        "Recall by layer",
    ]


def test_what_a_script_of_the_study_publishes_is_read(tmp_path):
    size = Size(("multi_key",), 1000, 4)
    script = Script("a_claim", "Keys matter.", "needle-dense", size, size)
    asked = ask(script, "about", ["-o", str(tmp_path), "--quiet", "--seed", "3"])
    numbers = (Number("share", 0.5, float("-inf"), 0.75, 12), Number("x", *[float("nan")] * 3, 3))
    verdict = Verdict(Finding.UNDECIDED, "They may.", numbers, ("Few prompts.",))
    frame = pd.DataFrame({"task": ["multi_key", HOSTILE], "kept": [0.25, 0.5]})
    publish(script, asked, Answer(verdict, {"by_task": frame}), 12.0)
    _, tree = report(tmp_path / "r.html", tmp_path)
    assert tree.text["strong"] == ["undecided here"]
    assert tree.text["h3"][0] == "Keys matter."
    assert {"They may.", "Few prompts."} <= set(tree.text["p"])
    assert {"share", "0.750", "12", HOSTILE, "0.250"} <= set(tree.text["td"])
    assert "a_claim_by_task.csv" in tree.text["span"]
    assert any(text.startswith("python analyses/a_claim.py") for text in tree.text["pre"])
    assert any("tasks multi_key" in text and "seed 3" in text for text in tree.text["dd"])


def test_tables_outside_the_folder_are_not_read(tmp_path):
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    (tmp_path / "secret.csv").write_text("a\nxyzzy\n")
    names = ["../secret.csv", str(tmp_path / "secret.csv"), "absent.csv", 3]
    (gallery / "a.json").write_text(json.dumps({**VERDICT, "tables": names}))
    done("report", gallery, "--no-figures", "-o", tmp_path / "r.html")
    assert "xyzzy" not in (tmp_path / "r.html").read_text()


def test_records_of_strange_types_are_passed_over(folders, tmp_path):
    strange = {**VERDICT, "numbers": 3, "caveats": "abc", "figures": {}, "settings": [1],
               "versions": [1], "machine": "m", "seconds": "1", "commit": 4}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(strange))
    (tmp_path / "b.json").write_text(json.dumps({"reading": 3, "kind": "verdict"}))
    (tmp_path / "c.json").write_text(json.dumps({"reading": "no picture", "provenance": 3}))
    _, tree = report(tmp_path / "r.html", tmp_path)
    assert tree.text["strong"] == ["not supported"]
    shutil.copytree(folders / "relate", tmp_path / "relate")
    (tmp_path / "relate" / "relations.csv").write_text("x,y\n1,2\n")
    (tmp_path / "relate" / "origin.json").write_text('{"versions": 3, "command": []}')
    _, tree = report(tmp_path / "r.html", tmp_path / "relate")
    assert "relations.csv lacks estimate, held" in " ".join(tree.text["li"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: root / "absent", "that folder does not exist"),
        (lambda root: root, "holds no run"),
        (lambda root: _file(root / "a.txt", "x"), "is a file"),
        (lambda root: _file(root / "run.json", "{").parent, "cannot be read as JSON"),
        (lambda root: _file(root / "run.json", "[1]").parent, "holds no object"),
        (lambda root: _file(root / "run.json", '{"kind": "toast"}').parent, "of kind 'toast'"),
        (lambda root: _file(root / "run.json", '{"samples": "x"}').parent, "samples is 'x'"),
        (lambda root: _file(root / "manifest.json", '{"layers": 3}').parent, "layers is '3'"),
        (lambda root: _file(root / "manifest.json", "{}").parent, "names no layers"),
    ],
)
def test_a_wrong_folder_is_one_line(tmp_path, make, said):
    folder = tmp_path / "given"
    folder.mkdir()
    result = run("report", make(folder), "-o", tmp_path / "r.html")
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_a_folder_is_no_output(folders, tmp_path):
    result = run("report", folders / "scores", "--no-figures", "-o", tmp_path)
    assert result.exit_code == 2
    assert "name the HTML file" in result.stderr


def _file(path, text):
    path.write_text(text)
    return path
