"""The benchmark's plumbing on a CPU; on a GPU, the limits that full-length capture keeps."""

import csv
import importlib.util
from pathlib import Path

import pytest
import torch

from indexer_lab.cli import main
from indexer_lab.engine import engine_for

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "full_length_capture.py"
CUDA = torch.device("cuda")
GIB = 2**30


@pytest.fixture(scope="module")
def bench():
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("full_length_capture", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(bench, tmp_path, *words):
    output = tmp_path / "rows.csv"
    bench.main(["--shape", "tiny", "--device", "cpu", "--seconds", "0", "--output", str(output),
                   *words])  # fmt: skip
    return list(csv.DictReader(output.read_text().splitlines()))


def test_every_length_has_a_row_of_every_entrant(bench, tmp_path, capsys):
    rows = measured(bench, tmp_path, "--lengths", "5,40")
    assert [(row["length"], row["who"]) for row in rows] == [
        (length, who) for length in ("5", "40") for who in ("plain", "chunked", "capture")
    ]
    assert all(float(row["seconds"]) > 0 and row["passes"] == "1" for row in rows)
    assert {row["gpu"] for row in rows} == {"none (cpu)"}
    assert all(row["torch"] == torch.__version__ and row["transformers"] for row in rows)
    assert "plain / capture = " in capsys.readouterr().out


def test_running_out_of_memory_is_a_row(bench, tmp_path, monkeypatch):
    def full(model, ids):
        if ids.shape[1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(bench.ENTRANTS, "plain", full)
    monkeypatch.setattr(bench, "WARM_UP", 4)
    rows = measured(bench, tmp_path, "--lengths", "8,16", "--who", "plain,capture")
    by_case = {(row["length"], row["who"]): row for row in rows}
    assert by_case["16", "plain"]["note"] == "out of memory"
    assert by_case["16", "plain"]["seconds"] == ""
    assert float(by_case["16", "capture"]["seconds"]) > 0
    assert by_case["8", "plain"]["note"] == ""


@pytest.mark.parametrize(("length", "rows"), [(16384, 512), (65536, 256), (163840, 128)])
def test_chunks_of_the_patient_user_shrink_with_the_prompt(bench, length, rows):
    class Model:
        class config:  # noqa: N801 - as transformers names it
            index_n_heads = 64

    assert bench.chunk_of(Model, length) == rows


def test_all_entrants_see_one_model(bench):
    model = bench.build("tiny", torch.device("cpu"), 64)
    assert model.dtype == torch.bfloat16
    assert model.model.layers[0].self_attn.indexer.weights_proj.weight.dtype == torch.float32
    with torch.inference_mode():
        (record,) = bench.captured(model, bench.prompt(40, torch.device("cpu")))
    assert record.indexer is not None
    assert record.rows == 40


@pytest.mark.gpu
def test_a_prompt_of_full_length_fits(bench):
    """163,840 tokens in one layer at V3.2's width: at most 16 GiB over the weights."""
    model = bench.build("v32", CUDA, 163840)
    with torch.inference_mode():
        row = bench.measured(model, "capture", bench.prompt(163840, CUDA), 0.0)
    assert float(row["peak_gib"]) <= 16


@pytest.mark.gpu
def test_sixteen_thousand_tokens_take_little(bench):
    """At most 5 GiB over the weights, where transformers takes 133."""
    model = bench.build("v32", CUDA, 16384)
    with torch.inference_mode():
        row = bench.measured(model, "capture", bench.prompt(16384, CUDA), 0.0)
    assert float(row["peak_gib"]) <= 5


@pytest.mark.gpu
def test_eight_thousand_tokens_are_those_of_transformers(bench):
    """Selection and output at V3.2's width, held against transformers' own within rounding."""
    model = bench.build("v32", CUDA, 8192)
    attention = model.model.layers[0].self_attn
    outputs, picked = [], []
    hooks = [
        attention.o_proj.register_forward_pre_hook(lambda m, args: outputs.append(args[0])),
        attention.indexer.register_forward_hook(lambda m, a, out: picked.append(out[0].long())),
    ]
    ids = bench.prompt(8192, CUDA)
    with torch.inference_mode():
        bench.plain(model, ids)
        truth, right = outputs.pop(), picked.pop()
        assert engine_for("auto", CUDA) is not None
        bench.captured(model, ids)
    for hook in hooks:
        hook.remove()
    ours = torch.cat(outputs, dim=1)
    width = right.shape[-1]
    chosen = torch.cat([torch.nn.functional.pad(p, (0, width - p.shape[-1]), value=-1)
                        for p in picked])  # fmt: skip
    late = torch.arange(width, 8192, device="cuda")  # rows that leave keys out
    marks = torch.zeros(len(late), 8192, dtype=torch.bool, device="cuda")
    marks.scatter_(1, right[late], True)
    shared = marks.gather(1, chosen[late]).float().mean(-1)
    assert shared.mean() > 0.9999
    assert shared.min() > 0.99  # what rounding decides lies at the boundary alone
    gap = (ours.float() - truth.float()).norm(dim=-1) / truth.float().norm(dim=-1)
    assert gap.mean() < 1e-2


def test_a_backend_that_cannot_run_is_told_before_anything_is_written(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("indexer_kernels.backend.INTERPRETED", False)  # as outside of tests
    words = ["capture", "--model", "needle-dsa", "--task", "single_needle", "--length", "64"]
    words += ["--backend", "triton", "-o", str(tmp_path / "taken")]
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert "backend = 'triton' cannot run on cpu" in capsys.readouterr().err
    assert not (tmp_path / "taken").exists()
