"""What the scripts share: settings, verdicts, records."""

import json

import numpy as np
import pandas as pd
import pytest

from indexer_lab.errors import InputError
from indexer_lab.statistics.bootstrap import Interval
from study import Answer, Finding, Number, Script, Size, Verdict, all_of, at_least, at_most
from study.arguments import ask
from study.models import has_indexer
from study.quality import budgets, spelled
from study.record import plain
from study.running import publish, run, words

NAN = float("nan")
SCRIPT = Script(
    "a_claim",
    "Keys matter.",
    "needle-dense",
    Size(("multi_key", "counting"), 1000, 4),
    Size(("multi_key",), 8176, 50),
    extra={"against": {"default": "needle-dsa"}},
)


def number(low, high, estimate=0.5):
    return Number("share", estimate, low, high, 12)


@pytest.mark.parametrize(
    ("low", "high", "least", "most"),
    [
        (0.9, 1.0, Finding.SUPPORTED, Finding.NOT_SUPPORTED),
        (0.8, 0.8, Finding.SUPPORTED, Finding.SUPPORTED),
        (0.7, 0.9, Finding.UNDECIDED, Finding.UNDECIDED),
        (0.1, 0.7, Finding.NOT_SUPPORTED, Finding.SUPPORTED),
        (NAN, NAN, Finding.UNDECIDED, Finding.UNDECIDED),
    ],
)
def test_a_number_is_judged_by_its_whole_interval(low, high, least, most):
    assert at_least(number(low, high), 0.8) is least
    assert at_most(number(low, high), 0.8) is most


def test_a_claim_of_several_parts_is_as_strong_as_its_weakest():
    yes, no, open_ = Finding.SUPPORTED, Finding.NOT_SUPPORTED, Finding.UNDECIDED
    assert all_of(yes, yes) is yes
    assert all_of(yes, open_) is open_
    assert all_of(open_, no, yes) is no
    assert all_of() is open_


def test_a_number_says_its_interval_or_why_there_is_none():
    assert str(number(0.25, 0.75)) == "0.50 [0.25, 0.75]"
    few = Number.of("x", Interval(0.5, NAN, NAN, NAN, 3, 0.95, "only 3 prompts"))
    assert str(few) == "0.50 (no interval: only 3 prompts)"
    assert str(number(-np.inf, 0.75)) == "0.50 [beyond, 0.75]"
    never = Number.of("x", Interval(np.inf, 0.9, np.inf, NAN, 9, 0.95, "quality never gets there"))
    assert str(never) == "quality never gets there"


def test_flags_win_over_the_size_that_full_asks_for():
    small, full = ask(SCRIPT, None, []), ask(SCRIPT, None, ["--full", "--samples", "7"])
    assert (small.length, small.samples, small.tasks) == (1000, 4, ("multi_key", "counting"))
    assert (full.length, full.samples, full.tasks) == (8176, 7, ("multi_key",))
    assert small.work != full.work
    assert small.more == {"against": "needle-dsa"}


def test_a_file_of_prompts_takes_the_place_of_tasks():
    asked = ask(SCRIPT, None, ["--prompts", "mine.jsonl"])
    assert asked.tasks == ()
    assert asked.reading()["prompts"].name == "mine.jsonl"


def test_booleans_and_what_is_not_finite_survive_json():
    found = plain({"yes": np.bool_(True), "few": np.int64(3), "inf": np.inf, "nan": np.float32(NAN),
                   "list": (np.float64(0.5), Finding.SUPPORTED)})  # fmt: skip
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == {
        "yes": True, "few": 3, "inf": None, "nan": None, "list": [0.5, "supported"]
    }  # fmt: skip


def test_a_record_holds_what_the_verdict_rests_on(tmp_path, capsys):
    asked = ask(SCRIPT, None, ["-o", str(tmp_path)])
    verdict = Verdict(Finding.UNDECIDED, "Too few prompts.", (number(NAN, NAN),), ("One model.",))
    table = pd.DataFrame({"ratio": [0.005], "kept": [True]})
    publish(SCRIPT, asked, Answer(verdict, {"by_ratio": table}, ("a_figure",)), 12.34)
    found = json.loads((tmp_path / "a_claim.json").read_text())
    assert found["finding"] == "undecided here"
    assert found["numbers"][0]["low"] is None
    assert found["figures"] == ["a_figure"]
    assert found["tables"] == ["a_claim_by_ratio.csv"]
    assert found["settings"]["against"] == "needle-dsa"
    assert found["resumed"] is False
    assert (tmp_path / "a_claim_by_ratio.csv").read_text() == "ratio,kept\n0.005,True\n"
    assert "Undecided here. Too few prompts." in capsys.readouterr().out


@pytest.mark.parametrize("figure", ["a_claim_x", "a_claim"])
def test_neither_table_nor_verdict_takes_the_place_of_a_figures_files(tmp_path, figure):
    asked = ask(SCRIPT, None, ["-o", str(tmp_path)])
    verdict = Verdict(Finding.UNDECIDED, "")
    answer = Answer(verdict, {"x": pd.DataFrame({"a": [1]})}, (figure,))
    with pytest.raises(ValueError, match=f"'{figure}'"):
        publish(SCRIPT, asked, answer, 1.0)
    assert not list(tmp_path.iterdir())


def test_a_users_mistake_is_one_line_and_a_defect_keeps_its_traceback(monkeypatch, capsys):
    def wrong(asked):
        raise InputError("--length 3: too short")

    def broken(asked):
        raise KeyError("a defect")

    monkeypatch.setattr("sys.argv", ["a_claim.py"])
    with pytest.raises(SystemExit) as left:
        run(SCRIPT, wrong, None)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: --length 3: too short\n"
    with pytest.raises(KeyError):
        run(SCRIPT, broken, None)


def test_words_show_every_number():
    verdict = Verdict(Finding.SUPPORTED, "It does.", (number(0.25, 0.75),))
    assert "0.50 [0.25, 0.75]" in words(SCRIPT, verdict)
    assert "12 prompts" in words(SCRIPT, verdict)


def test_budgets_are_shares_of_the_longest_prompt(tmp_path):
    lines = [{"id": f"p{n}", "input_ids": [1] * n} for n in (40, 100)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ask(SCRIPT, None, ["--prompts", str(path)])
    keys = budgets(asked, (0.0, 0.001, 0.25, 1.0), tokens=8)
    assert keys == {0.0: 1, 0.001: 1, 0.25: 25, 1.0: 108}
    assert spelled(keys) == "1,25,108"


def test_built_in_prompts_leave_room_for_the_answer():
    asked = ask(SCRIPT, None, ["--task", "single_needle", "--samples", "1", "--length", "300"])
    keys = budgets(asked, (1.0,), tokens=8)
    assert 250 < keys[1.0] <= 308


def test_an_indexer_is_known_before_the_model_is_loaded():
    assert has_indexer("needle-dsa")
    assert not has_indexer("needle-dense")
