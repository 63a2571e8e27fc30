"""The command line on small captures: what it prints, what it leaves, what it refuses."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from click.testing import CliRunner

from indexer_lab.cli import main
from indexer_lab.store.capture import open_capture
from indexer_lab.store.scores import open_scores

from .conftest import write_capture


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def parts(folder):
    """name -> sha256 of every parquet part"""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.parquet"))
    }


def score(capture, output, *more):
    return run("score", capture, "--budget", "4,8", "--selector", "lightning", "-o", output, *more)


def test_validate_proves_a_true_capture(capture_folder):
    done = run("validate", capture_folder)
    assert done.exit_code == 0, done.output
    assert done.output.count("yes") == 2
    rows = json.loads(run("validate", capture_folder, "--json").stdout)
    assert len(rows) == 4
    assert all(row["holds"] and row["swapped"] == 0 for row in rows)
    assert all(row["weights_error"] <= row["weights_allowed"] for row in rows)


@pytest.mark.parametrize("broken", ["queries", "indexer.weights", "indexer.native", "scale"])
def test_validate_fails_on_a_capture_that_lies(capture_folder, broken):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    capture = open_capture(capture_folder)
    path = capture.part(capture.samples[0], 2)
    with safe_open(path, "pt") as handle:
        facts = dict(handle.metadata())
    tensors = load_file(path)
    if broken == "scale":
        facts["record"] = facts["record"].replace('"scale": 0.2886', '"scale": 0.5886')
    elif broken == "indexer.native":
        tensors[broken] = (tensors[broken] + 1).clamp(max=20)
    else:
        tensors[broken] = tensors[broken].roll(1, dims=0 if broken == "queries" else -1)
    save_file(tensors, path, metadata=facts)
    done = run("validate", capture_folder)
    assert done.exit_code == 1
    assert "sample 'first', layer 2" in done.stderr
    assert "NO" in done.output


def test_score_prints_the_baselines_and_writes_a_part_each(capture_folder, tmp_path):
    done = score(capture_folder, tmp_path / "scores")
    assert done.exit_code == 0, done.output
    for word in ("exact", "random", "sink_recent", "lightning", "head_sum", "trivial", "worst"):
        assert word in done.output
    assert len(parts(tmp_path / "scores")) == 4
    frame = open_scores(tmp_path / "scores").frame()
    exact = frame[frame.selector == "exact"]
    assert (exact.recall == 1).all()
    assert (exact.mass_ratio - 1).abs().max() < 1e-6
    assert len(frame) == 2 * 2 * 4 * 10 * 4 * 2  # samples, layers, heads, rows, selectors, budgets
    others = frame[frame.selector != "exact"]
    assert (others.recall <= 1).all()
    assert others.recall.min() < 1


def test_two_runs_give_the_same_bytes(capture_folder, tmp_path):
    assert score(capture_folder, tmp_path / "a").exit_code == 0
    assert score(capture_folder, tmp_path / "b").exit_code == 0
    assert parts(tmp_path / "a") == parts(tmp_path / "b")


def test_ctrl_c_then_resume_gives_the_same_bytes(capture_folder, tmp_path, monkeypatch):
    import indexer_lab.cli.scoring_step as step

    assert score(capture_folder, tmp_path / "whole").exit_code == 0
    real, calls = step.score_record, []

    def stop_at_third(*words):
        calls.append(words)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*words)

    monkeypatch.setattr(step, "score_record", stop_at_third)
    stopped = score(capture_folder, tmp_path / "scores")
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr
    assert len(parts(tmp_path / "scores")) == 2
    again = score(capture_folder, tmp_path / "scores")
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    assert score(capture_folder, tmp_path / "scores", "--resume").exit_code == 0
    assert len(calls) == 3 + 2
    assert parts(tmp_path / "scores") == parts(tmp_path / "whole")


def test_a_killed_process_resumes_to_the_same_bytes(capture_folder, tmp_path):
    words = [sys.executable, "-m", "indexer_lab", "score", str(capture_folder)]
    words += ["--budget", "4,8", "--selector", "lightning", "-o", str(tmp_path / "scores")]
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while running.poll() is None and not parts(tmp_path / "scores"):
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert score(capture_folder, tmp_path / "scores", "--resume").exit_code == 0
    assert score(capture_folder, tmp_path / "whole").exit_code == 0
    assert parts(tmp_path / "scores") == parts(tmp_path / "whole")


def test_resuming_with_other_settings_names_the_field(capture_folder, tmp_path):
    assert score(capture_folder, tmp_path / "scores").exit_code == 0
    done = run("score", capture_folder, "--budget", "4", "-o", tmp_path / "scores", "--resume")
    assert done.exit_code == 2
    assert "budgets: [4, 8] -> [4]" in done.stderr
    assert run("score", capture_folder, "-o", tmp_path / "scores", "--budget", "4",
               "--force").exit_code == 0  # fmt: skip


def test_settings_from_a_file_and_the_command_line_wins(capture_folder, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("budget: 4,8\nselector: [lightning]\ntarget: [per_head]\n")
    out = tmp_path / "scores"
    done = run("score", capture_folder, "--config", config, "--budget", "5", "-o", out)
    assert done.exit_code == 0, done.output
    manifest = open_scores(out).manifest
    assert manifest["budgets"] == [5]
    assert manifest["targets"] == ["per_head"]
    assert "lightning" in manifest["selectors"]
    config.write_text("bugdet: 4\n")
    done = run("score", capture_folder, "--config", config, "-o", out, "--force")
    assert done.exit_code == 2
    assert "did you mean 'budget'" in done.stderr


def test_trivial_rows_are_counted_and_left_out(capture_folder, tmp_path):
    done = run("score", capture_folder, "--budget", "35", "-o", tmp_path / "s", "--json")
    rows = json.loads(done.stdout)
    # rows see 31..40 keys in the first sample and 23..32 in the second: 15 of 20 within 35
    assert {row["trivial"] for row in rows} == {0.75}
    assert {row["rows"] for row in rows} == {2 * 4 * 5}


def damaged(folder, how):
    capture = open_capture(folder)
    part = capture.part(capture.samples[0], 0)
    if how == "truncated":
        part.write_bytes(part.read_bytes()[:-40])
    elif how == "absent":
        part.unlink()
    elif how == "nan":
        from safetensors import safe_open
        from safetensors.torch import load_file, save_file

        with safe_open(part, "pt") as handle:
            facts = handle.metadata()
        tensors = load_file(part)
        tensors["queries"][0, 0, 0] = torch.nan
        save_file(tensors, part, metadata=facts)
    elif how == "version":
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 0}))
    elif how == "manifest":
        (folder / "manifest.json").write_text("{")
    return folder


@pytest.mark.parametrize("command", ["score", "validate"])
@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("truncated", "layer-00.safetensors is damaged"),
        ("absent", "sample 'first' lacks layer 0"),
        ("nan", "layer 0: queries holds NaN"),
        ("version", "schema version 0"),
        ("manifest", "cannot be read as JSON"),
    ],
)
def test_damaged_captures_are_refused_in_one_line(
    capture_folder, tmp_path, command, how, complaint
):
    damaged(capture_folder, how)
    more = ["-o", tmp_path / "s", "--budget", "4"] if command == "score" else []
    done = run(command, capture_folder, *more)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not parts(tmp_path)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--budget", "0"], "--budget 0"),
        (["--budget", "41"], "--budget 41 is over the 40 keys"),
        (["--budget", "4,x"], "'x' is no whole number"),
        (["--budget", "4", "--selector", "lightnin"], "did you mean 'lightning'"),
        (["--budget", "4", "--selector", "lightning:precision=fp9"], "expected one of"),
        (["--budget", "4", "--target", "headsum"], "did you mean 'head_sum'"),
        (["--budget", "4", "--layers", "1"], "layer 1 was not captured; captured are 0, 2"),
        (["--budget", "4", "--show", "recal"], "did you mean 'recall'"),
        (["--budgte", "4"], "No such option"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_written(
    capture_folder, tmp_path, words, complaint
):
    done = run("score", capture_folder, "-o", tmp_path / "s", *words)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_an_indexer_selector_does_not_fit_a_dense_model(plain_capture_folder, tmp_path):
    done = score(plain_capture_folder, tmp_path / "s")
    assert done.exit_code == 2
    assert "'lightning' needs indexer tensors" in done.stderr
    assert not (tmp_path / "s").exists()


def test_a_full_disk_ends_with_three_and_loses_nothing(capture_folder, tmp_path, monkeypatch):
    import errno

    assert score(capture_folder, tmp_path / "whole").exit_code == 0
    real, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) == 4:  # run.json, origin.json, one part, then the disk is full
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(os, "replace", full)
    done = score(capture_folder, tmp_path / "s")
    assert done.exit_code == 3
    assert "the disk is full" in done.stderr
    assert len(parts(tmp_path / "s")) == 1
    assert not list((tmp_path / "s").rglob("*.tmp"))
    monkeypatch.setattr(os, "replace", real)
    assert score(capture_folder, tmp_path / "s", "--resume").exit_code == 0
    assert parts(tmp_path / "s") == parts(tmp_path / "whole")


def test_out_of_memory_ends_with_three(capture_folder, tmp_path, monkeypatch):
    import indexer_lab.cli.scoring_step as step

    def hungry(*words):
        torch.empty(1 << 60, dtype=torch.uint8)  # what torch itself says on this system

    monkeypatch.setattr(step, "score_record", hungry)
    done = score(capture_folder, tmp_path / "s")
    assert done.exit_code == 3
    assert "out of memory" in done.stderr
    assert not parts(tmp_path / "s")


def test_a_defect_of_ours_keeps_its_traceback(capture_folder, tmp_path, monkeypatch):
    import indexer_lab.cli.scoring_step as step

    def defect(*words):
        raise TypeError("ours")

    monkeypatch.setattr(step, "score_record", defect)
    with pytest.raises(TypeError, match="ours"):
        CliRunner().invoke(
            main,
            ["score", str(capture_folder), "--budget", "4", "-o", str(tmp_path / "s")],
            catch_exceptions=False,
        )


def test_the_same_capture_scores_the_same_in_smaller_blocks(capture_folder, tmp_path, monkeypatch):
    import indexer_probes.records as records

    assert score(capture_folder, tmp_path / "a").exit_code == 0
    monkeypatch.setattr(records, "CHUNK_BYTES", 3 * 4 * 4 * 40)  # three rows at a time
    assert score(capture_folder, tmp_path / "b").exit_code == 0
    keys = ["sample", "layer", "head", "position", "selector", "budget"]
    left, right = (
        open_scores(tmp_path / name).frame().sort_values(keys).reset_index(drop=True)
        for name in "ab"
    )
    import pandas as pd

    pd.testing.assert_frame_equal(left, right, rtol=1e-5, atol=1e-6, check_categorical=False)


def test_moved_captures_still_work(capture_folder, tmp_path):
    shutil.move(capture_folder, tmp_path / "elsewhere")
    assert run("validate", tmp_path / "elsewhere").exit_code == 0


def test_two_selectors_with_the_same_label_count_once(capture_folder, tmp_path):
    done = score(capture_folder, tmp_path / "s", "--selector", "lightning", "--selector", "exact")
    assert done.exit_code == 0
    frame = open_scores(tmp_path / "s").frame(["selector"])
    assert sorted(frame.selector.unique()) == ["exact", "lightning", "random", "sink_recent"]


def test_a_capture_of_a_dense_model_defaults_to_per_head(tmp_path):
    folder = write_capture(tmp_path / "dense", indexer=False)
    assert run("score", folder, "--budget", "4", "-o", tmp_path / "s").exit_code == 0
    assert open_scores(tmp_path / "s").manifest["targets"] == ["per_head"]
