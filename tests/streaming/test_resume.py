"""A streamed capture that is killed goes on at the layer where it stopped, and ends the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from indexer_lab.store.capture import SampleInfo
from indexer_lab.store.states import States
from indexer_probes.streaming.model import StreamedModel

KILLED = """
import os, signal, sys
from indexer_lab.cli import main
from indexer_lab.store import {module} as place

real, calls = place.{writer}, []

def dying(tensors, path, **more):
    calls.append(path)
    real(tensors, path, **more)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)  # written whole, and not yet under its name

place.{writer} = dying
main(sys.argv[1:])
"""
POINTS = {
    "while the second prompt's first state is written": ("states", 2, ["one"]),
    "while the first record of the second layer is written": ("records", 5, ["one", "two"]),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_resumes_to_the_same_bytes(
    point, pair, prompts, tmp_path, run, contents, monkeypatch
):
    module, call, carried = POINTS[point]
    assert run(pair[0], tmp_path / "whole", "--stream-layers").exit_code == 0
    program = KILLED.format(module=module, writer="save_file", call=call)
    words = ["capture", "--model", pair[0], "--prompts", prompts, "-o", tmp_path / "c"]
    words = [sys.executable, "-c", program, *map(str, words), "--stream-layers"]
    killed = subprocess.run(words, capture_output=True, env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    states = sorted((tmp_path / "c" / "states").glob("*/before-01.safetensors"))
    assert [path.parent.name for path in states] == carried
    passed = heard_of(monkeypatch)
    done = run(pair[0], tmp_path / "c", "--stream-layers", "--resume")
    assert done.exit_code == 0, done.output
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")
    leftover = [path for path in (tmp_path / "c").rglob("*") if path.name.endswith(".tmp")]
    assert len(leftover) <= 1  # what the killed process was writing
    assert ("one", 0) not in passed  # it was through layer 0
    assert (("two", 0) in passed) == ("two" not in carried)


def heard_of(monkeypatch) -> list[tuple[str, int]]:
    """(sample, layer) of every step that a later run takes."""
    names, passed = {40: "one", 56: "two"}, []
    real = StreamedModel.run

    def told(self, number, ids, before):
        passed.append((names[len(ids)], number))
        return real(self, number, ids, before)

    monkeypatch.setattr(StreamedModel, "run", told)
    return passed


def test_ctrl_c_then_resume(pair, tmp_path, run, contents, monkeypatch):
    assert run(pair[0], tmp_path / "whole", "--stream-layers").exit_code == 0
    real = StreamedModel.run

    def stopped(self, number, ids, before):
        if number == 1:
            raise KeyboardInterrupt
        return real(self, number, ids, before)

    monkeypatch.setattr(StreamedModel, "run", stopped)
    assert run(pair[0], tmp_path / "c", "--stream-layers").exit_code == 130
    monkeypatch.setattr(StreamedModel, "run", real)
    passed = heard_of(monkeypatch)
    assert run(pair[0], tmp_path / "c", "--stream-layers", "--resume").exit_code == 0
    assert passed == [("one", 1), ("two", 1)]
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


def test_a_record_that_was_deleted_is_made_again(pair, tmp_path, run, contents):
    assert run(pair[0], tmp_path / "c", "--stream-layers").exit_code == 0
    whole = contents(tmp_path / "c")
    (tmp_path / "c/samples/two/layer-01.safetensors").unlink()
    assert run(pair[0], tmp_path / "c", "--stream-layers", "--resume").exit_code == 0
    assert contents(tmp_path / "c") == whole
    told = run(pair[0], tmp_path / "c", "--stream-layers", "--resume")
    assert "the capture was whole" in told.output


def test_a_plain_capture_that_was_stopped_can_be_streamed_to_its_end(pair, tmp_path, run, contents):
    assert run(pair[1], tmp_path / "c").exit_code == 0
    whole = contents(tmp_path / "c")
    (tmp_path / "c/samples/one/layer-00.safetensors").unlink()
    assert run(pair[1], tmp_path / "c", "--stream-layers", "--resume").exit_code == 0
    assert contents(tmp_path / "c") == whole


def test_a_damaged_state_is_named(pair, tmp_path, run):
    state = tmp_path / "c/states/one/before-01.safetensors"
    assert run(pair[0], tmp_path / "c", "--stream-layers").exit_code == 0
    (tmp_path / "c/samples/one/layer-01.safetensors").unlink()
    state.parent.mkdir(parents=True)
    state.write_bytes(b"nothing")
    done = run(pair[0], tmp_path / "c", "--stream-layers", "--resume")
    assert done.exit_code == 2
    assert f"{state} is damaged" in done.stderr


def test_the_state_of_another_layer_is_forgotten_once_the_next_is_whole(tmp_path):
    import torch

    states, sample = States(tmp_path / "states"), SampleInfo("../odd", "", 4)
    shared = torch.arange(6.0)
    kept = (
        shared[:4].view(2, 2),
        None,
        {"more": [shared, 3]},
        torch.randn(2, 3, 4).transpose(0, 1),
    )
    states.save(sample, 1, kept)
    states.save(sample, 2, kept)
    assert (states.reached(sample, 1), states.reached(sample, 2)) == (0, 2)
    assert not list(tmp_path.glob("odd*"))
    found = states.load(sample, 2, torch.device("cpu"))
    assert found[0].tolist() == [[0, 1], [2, 3]]
    assert found[1] is None
    assert found[2]["more"][0].tolist() == shared.tolist()
    assert found[2]["more"][1] == 3
    assert torch.equal(found[3], kept[3])
    assert found[3].stride() == kept[3].stride()
    states.forget(sample)
    assert not (tmp_path / "states").exists()
    assert Path(tmp_path).exists()
