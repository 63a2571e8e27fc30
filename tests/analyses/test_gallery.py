"""The gallery: each figure is on its page, each file has an origin, numbers come out again."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gallery import page
from run import SCRIPTS
from topk_decoding import SCRIPT

from indexer_figures import Choice, render
from indexer_lab.errors import InputError
from study.arguments import ask
from study.quality import run_sparse

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "figures" / "gallery"


def test_the_committed_page_is_what_the_records_say():
    assert (GALLERY / "README.md").read_text(encoding="utf-8") == page(GALLERY)


def test_every_committed_figure_is_on_the_page_with_its_alternative_text():
    text = (GALLERY / "README.md").read_text(encoding="utf-8")
    pictures = sorted(GALLERY.glob("*.png"))
    assert pictures
    for picture in pictures:
        assert f"]({picture.name})" in text


def a_gallery(folder, name="topk_decoding"):
    """One verdict with one figure and one table."""
    rows = [{"sample": f"s{n}", "panel": "answers", "selector": "a", "x": 0.1, "value": n / 4}
            for n in range(4)]  # fmt: skip
    render("gain_by_ratio", pd.DataFrame(rows), folder, {"command": "python x.py"}, Choice(), "one")
    (folder / f"{name}_table.csv").write_text("a\n1\n")
    number = {"name": "a|b", "estimate": 0.5, "low": None, "high": None, "n": 3, "unit": "share",
              "reason": "only 3 prompts"}  # fmt: skip
    record = {"claim": "<b>Keys</b> matter.", "finding": "undecided here", "sentence": "Few.",
              "caveats": ["One model."], "command": "python analyses/x.py", "seconds": 12.3,
              "numbers": [number], "figures": ["one"], "tables": [f"{name}_table.csv"]}  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(record))


def test_a_page_tells_verdict_numbers_figures_and_commands(tmp_path):
    a_gallery(tmp_path)
    text = page(tmp_path)
    assert "**Undecided here.** Few." in text
    assert "| a\\|b | 0.5 | only 3 prompts | share | 3 |" in text
    assert "](one.png)" in text
    assert "`python analyses/x.py`, 12 seconds" in text
    assert "<b>" not in text.replace("\\<b\\>", "")


def test_two_scripts_never_share_a_figure(tmp_path):
    for name in SCRIPTS[:2]:
        a_gallery(tmp_path, name)
    with pytest.raises(InputError, match="both draw one"):
        page(tmp_path)


def test_verdicts_stand_in_the_order_of_the_study(tmp_path):
    for name in (SCRIPTS[1], SCRIPTS[0]):
        a_gallery(tmp_path, name)
    path = tmp_path / f"{SCRIPTS[1]}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "figures": []}))
    text = page(tmp_path)
    assert text.index(f"{SCRIPTS[0]}_table") < text.index(f"{SCRIPTS[1]}_table")


def test_a_file_without_an_origin_is_refused(tmp_path):
    a_gallery(tmp_path)
    (tmp_path / "old.csv").write_text("a\n")
    with pytest.raises(InputError, match=r"speaks of old\.csv"):
        page(tmp_path)


@pytest.mark.parametrize("name", ["one.png", "topk_decoding_table.csv"])
def test_a_file_that_a_record_speaks_of_must_be_there(tmp_path, name):
    a_gallery(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"lacks {name}"):
        page(tmp_path)


def test_numbers_that_were_not_plotted_are_refused(tmp_path):
    a_gallery(tmp_path)
    (tmp_path / "one.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match="not what was plotted"):
        page(tmp_path)


def test_the_committed_numbers_come_out_again(tmp_path):
    """One task of one figure, from the settings that its verdict holds. Python's own sources are
    the prompts' text and rounding is the machine's, so that one answer may differ."""
    record = GALLERY / "topk_decoding.json"
    settings = json.loads(record.read_text())["settings"]
    table = pd.read_csv(GALLERY / "topk_decoding_quality.csv")
    once = table[(table["task"] == "single_needle") & (table["selector"] == "exact")]
    once = once.sort_values("budget").head(3)
    flags = [f"--{name}={settings[name]}" for name in ("model", "length", "samples", "seed")]
    asked = ask(SCRIPT, None, [*flags, "--task=single_needle", f"--work={tmp_path}", "--quiet"])
    keys = dict(enumerate(map(int, once["budget"])))
    frame = run_sparse(asked, "again", keys).frame()
    render("quality_by_budget_ratio", frame, tmp_path, {})
    again = pd.read_csv(tmp_path / "quality_by_budget_ratio.csv").sort_values("budget")
    assert again["samples"].tolist() == once["samples"].tolist()
    np.testing.assert_allclose(again["ratio"], once["ratio"], rtol=0.03)
    np.testing.assert_allclose(again["mean"], once["mean"], atol=1.01 / settings["samples"])
