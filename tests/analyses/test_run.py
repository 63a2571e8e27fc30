"""The runner: every script in its turn, a failing one named, a stopped run resumed."""

import json
from importlib import import_module
from pathlib import Path

import pytest
from run import SCRIPTS, chosen, main

ROOT = Path(__file__).parents[2]
HELPERS = {"run", "gallery"}
FINE = """
import json, sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--output") + 1])
record = {"finding": "supported", "claim": "It works.", "flags": sys.argv[1:]}
(out / "NAME.json").write_text(json.dumps(record))
with open(out / "ran", "a") as log:
    log.write("NAME ")
"""


@pytest.fixture
def folder(tmp_path):
    for name in SCRIPTS[:3]:
        (tmp_path / f"{name}.py").write_text(FINE.replace("NAME", name))
    return tmp_path


def study(folder, *flags):
    only = [each for name in SCRIPTS[:3] for each in ("--only", name)]
    places = ["-o", str(folder), "--work", str(folder / "runs")]
    return main([*only, *places, *flags], folder)


def test_the_runner_knows_every_script_and_no_other():
    found = {path.stem for path in (ROOT / "analyses").glob("*.py")} - HELPERS
    assert found == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_named_as_its_file_and_states_its_command(name):
    module = import_module(name)
    assert module.SCRIPT.name == name
    assert f"python analyses/{name}.py" in module.__doc__
    assert "--full" in module.__doc__
    assert module.SCRIPT.claim.endswith(".")


def test_only_keeps_the_order_of_the_study():
    assert chosen(["entropy", "topk_decoding"]) == ["topk_decoding", "entropy"]
    assert chosen(None) == list(SCRIPTS)


def test_all_verdicts_stand_at_the_end(folder, capfd):
    assert study(folder) == 0
    out = capfd.readouterr().out
    assert "[3/3]" in out
    assert out.count("supported: It works.") == 3
    assert "3 of 3 in" in out
    assert (folder / "ran").read_text().split() == list(SCRIPTS[:3])


def test_a_failing_script_is_named_and_stops_no_other(folder, capfd):
    (folder / f"{SCRIPTS[1]}.py").write_text("raise SystemExit(2)")
    assert study(folder) == 1
    said = capfd.readouterr()
    assert f"{SCRIPTS[1]}: left with exit code 2" in said.err
    assert "FAILED: left with exit code 2" in said.out
    assert (folder / "ran").read_text().split() == [SCRIPTS[0], SCRIPTS[2]]


def test_resume_passes_over_what_is_done_with_the_same_settings(folder, capfd):
    (folder / f"{SCRIPTS[1]}.py").write_text("raise SystemExit(3)")
    study(folder)
    (folder / f"{SCRIPTS[1]}.py").write_text(FINE.replace("NAME", SCRIPTS[1]))
    assert study(folder, "--resume") == 0
    assert (folder / "ran").read_text().split() == [SCRIPTS[0], SCRIPTS[2], SCRIPTS[1]]
    assert "done before" in capfd.readouterr().out
    study(folder, "--resume", "--samples", "2")
    assert len((folder / "ran").read_text().split()) == 6


def test_settings_reach_the_script(folder):
    study(folder, "--full", "--device", "cuda", "--seed", "3")
    flags = json.loads((folder / f"{SCRIPTS[0]}.json").read_text())["flags"]
    assert {"--full", "--device", "cuda", "--seed", "3"} <= set(flags)
    assert str(folder / "runs" / f"{SCRIPTS[0]}-full") in flags


def test_a_script_that_is_not_there_fails_with_its_path(tmp_path, capsys):
    assert main(["--only", "entropy", "--work", str(tmp_path)], tmp_path) == 1
    assert "there is no" in capsys.readouterr().out


def test_a_misspelled_script_is_refused_with_the_nearest(capsys):
    assert main(["--only", "entropie"]) == 2
    assert "did you mean 'entropy'?" in capsys.readouterr().err
