"""Engines' payloads, written here in their published formats, through to the score table."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file

from indexer_lab.cli import main
from indexer_lab.store.capture import SampleInfo, create, open_capture
from indexer_lab.store.files import digest
from indexer_lab.store.scores import open_scores

from ..lab.conftest import LAYERS, make_record

K = 8  # of the records' own indexers
IDS = {"first": list(range(40)), "second": list(range(100, 132))}
SAMPLES = [SampleInfo(name, "niah", len(ids), tokens=digest(ids)) for name, ids in IDS.items()]
PLACES = ("recall", "mass", "duplicates", "future", "missing")


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def capture(tmp_path):
    """Two samples, layers 0 and 2 of a model with an indexer."""
    kept = create(tmp_path / "capture", {"model": "m", "layers": LAYERS}, SAMPLES)
    for number, sample in enumerate(SAMPLES):
        for layer in LAYERS:
            kept.save(sample, make_record(layer, sample.length, seed=number))
    return tmp_path / "capture"


def engine(capture, number, completion=3, layers=3):
    """int32 [tokens - 1, layer, k]: what the model itself picked on the captured rows, in another
    order, and noise elsewhere, as an engine that is right would return it."""
    sample = SAMPLES[number]
    rows = sample.length + completion - 1
    picked = np.zeros((rows, layers, K), np.int32)
    for layer in LAYERS:
        record = open_capture(capture).record(sample, layer)
        native = np.sort(record.indexer.native[0].numpy(), axis=-1)
        picked[record.positions.numpy(), layer] = native
    return picked


def sglang(array, prompt, completion=3, **more):
    meta = {
        "id": "r", "prompt_tokens": prompt, "completion_tokens": completion,
        "indexer_topk": base64.b64encode(array.astype("<i4").tobytes()).decode(),
        "indexer_topk_num_layers": array.shape[1], **more,
    }  # fmt: skip
    return {"text": "…", "meta_info": {name: v for name, v in meta.items() if v is not None}}


def vllm(array, prompt, completion=3, **more):
    stream = io.BytesIO()
    np.save(stream, array.astype(np.int32))
    text = base64.b64encode(stream.getvalue()).decode()
    choice = {"index": 0, "text": "…", "finish_reason": "stop", "indexer_topk": text, **more}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"id": "c", "choices": [choice], "usage": usage}


def both(capture, make, **more):
    return [make(engine(capture, n), s.length, **more) for n, s in enumerate(SAMPLES)]


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def scored(capture, output, selection):
    done = run("score", capture, "--selector", "native", "--selector", f"recorded:{selection}",
               "--budget", K, "-o", output)  # fmt: skip
    assert done.exit_code == 0, done.output
    return open_scores(output).frame()


def same_as_native(frame, selection):
    mine = frame[frame["selector"] == f"recorded:{selection}"].reset_index(drop=True)
    native = frame[frame["selector"] == "native"].reset_index(drop=True)
    assert len(mine) == 2 * 2 * 4 * 10
    for name in PLACES:
        np.testing.assert_allclose(mine[name], native[name], rtol=1e-6)
    assert mine["recall"].mean() < 1  # the native selection is not the exact one


@pytest.mark.parametrize("make", [sglang, vllm])
def test_a_right_engine_scores_as_the_native_selection(capture, tmp_path, make):
    file = written(tmp_path / "engine.json", both(capture, make))
    done = run("import-selection", capture, file)
    assert done.exit_code == 0, done.output
    assert "2 samples, 2 layers, 40 rows of 8 keys" in done.stdout
    assert "warning" not in done.stdout
    selection = capture / "selections" / "engine.safetensors"
    assert f"--selector recorded:{selection} --budget 8" in done.stdout
    same_as_native(scored(capture, tmp_path / "scores", selection), selection)


def test_samples_by_name_in_any_order_as_json_lines(capture, tmp_path):
    lines = [
        json.dumps({"sample": sample.id, "response": response})
        for sample, response in zip(SAMPLES, both(capture, sglang), strict=True)
    ]
    file = written(tmp_path / "engine.jsonl", "\n\n".join(reversed(lines)))
    assert run("import-selection", capture, file, "-o", tmp_path / "s.safetensors").exit_code == 0
    same_as_native(scored(capture, tmp_path / "scores", tmp_path / "s.safetensors"),
                   tmp_path / "s.safetensors")  # fmt: skip


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_plain_arrays(capture, tmp_path, suffix):
    arrays = {sample.id: engine(capture, number) for number, sample in enumerate(SAMPLES)}
    files = [tmp_path / f"picked.{suffix}"]
    if suffix == "npy":
        files = [tmp_path / f"{name}.npy" for name in arrays]
        for path, array in zip(files, arrays.values(), strict=True):
            np.save(path, array.astype(np.int64))
    elif suffix == "npz":
        np.savez_compressed(files[0], **dict(reversed(arrays.items())))
    else:
        save_file(arrays, files[0])
    out = tmp_path / "s.safetensors"
    done = run("import-selection", capture, *files, "-o", out)
    assert done.exit_code == 0, done.output
    same_as_native(scored(capture, tmp_path / "scores", out), out)


def test_layers_start_and_sglang_without_its_count(capture, tmp_path):
    """The engine returns two layers, which are 0 and 2, from position 20 on."""
    arrays = [engine(capture, n)[:, [0, 2]] for n in range(2)]
    trimmed = [vllm(array[20:], s.length) for array, s in zip(arrays, SAMPLES, strict=True)]
    file = written(tmp_path / "a.json", trimmed)
    done = run("import-selection", capture, file, "--layers", "0,2", "--start", 20)
    assert done.exit_code == 0, done.output
    flat = [
        sglang(array, s.length, indexer_topk_num_layers=None)
        for array, s in zip(arrays, SAMPLES, strict=True)
    ]
    file = written(tmp_path / "b.json", flat)
    refused = run("import-selection", capture, file, "--layers", "0,2")
    assert refused.exit_code == 2
    assert "--indexer-layers" in refused.stderr
    words = ("--layers", "0,2", "--indexer-layers", 2)
    assert run("import-selection", capture, file, *words).exit_code == 0
    for name in "ab":
        selection = capture / "selections" / f"{name}.safetensors"
        same_as_native(scored(capture, tmp_path / name, selection), selection)


def test_a_set_has_no_smaller_budget(capture, tmp_path):
    file = written(tmp_path / "e.json", both(capture, sglang))
    run("import-selection", capture, file)
    selection = f"recorded:{capture / 'selections' / 'e.safetensors'}"
    out = tmp_path / "scores"
    done = run("score", capture, "--selector", selection, "--budget", "4,8", "-o", out)
    assert done.exit_code == 2
    assert "in no order: score them with --budget 8" in done.stderr
    assert run("import-selection", capture, file, "--force", "--ordered").exit_code == 0
    assert run("score", capture, "--selector", selection, "--budget", "4,8", "-o", out,
               "--force").exit_code == 0  # fmt: skip


def test_an_engine_that_is_wrong_is_kept_and_told(capture, tmp_path):
    arrays = [engine(capture, n) for n in range(2)]
    arrays[0][35, 2] = [39, 36, 1, 1, 1, -1, 0, 2]  # two after the query, one key thrice, one empty
    file = written(
        tmp_path / "e.json", [sglang(a, s.length) for a, s in zip(arrays, SAMPLES, strict=True)]
    )
    done = run("import-selection", capture, file, "--json")
    counts = json.loads(done.stdout)
    assert (counts["future"], counts["repeated"], counts["empty"]) == (2, 2, 1)
    selection = capture / "selections" / "e.safetensors"
    frame = scored(capture, tmp_path / "scores", selection)
    row = frame[(frame["selector"] == f"recorded:{selection}") & (frame["layer"] == 2)
                & (frame["sample"] == "first") & (frame["position"] == 35)]  # fmt: skip
    assert set(row["future"]) == {2}
    assert set(row["duplicates"]) == {2}
    assert set(row["missing"]) == {1}


def test_a_selection_does_not_fit_another_capture(capture, tmp_path):
    run("import-selection", capture, written(tmp_path / "e.json", both(capture, sglang)))
    other = create(tmp_path / "other", {"model": "m", "layers": LAYERS}, SAMPLES)
    for sample in SAMPLES:
        for layer in LAYERS:
            other.save(sample, make_record(layer, sample.length, seed=7))
    selection = capture / "selections" / "e.safetensors"
    done = run("score", tmp_path / "other", "--selector", f"recorded:{selection}", "--budget", K,
               "-o", tmp_path / "scores")  # fmt: skip
    assert done.exit_code == 2
    assert "imported for another capture" in done.stderr


def changed(capture, value, row=35, layer=2):
    array = engine(capture, 0)
    array[row, layer, 0] = value
    return [sglang(array, 40), sglang(engine(capture, 1), 32)]


def spoilt(capture, **more):
    first, second = both(capture, sglang)
    first["meta_info"] |= more
    return [first, second]


def first(capture, array):
    return [vllm(array, 40), vllm(engine(capture, 1), 32)]


def ids(capture, given):
    responses = both(capture, vllm)
    responses[0]["prompt_token_ids"] = given
    return responses


def half_named(capture):
    responses = both(capture, sglang)
    responses[0]["sample"] = "first"
    return responses


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda c: changed(c, 40), "picks 40, and sample 'first' has positions 0 to 39"),
        (lambda c: changed(c, -2), "picks -2"),
        (lambda c: changed(c, 70144), "cache slots"),
        (lambda c: both(c, sglang)[:1], "1 selection and 2 samples"),
        (lambda c: list(reversed(both(c, sglang))), "prompt of 32 tokens"),
        (lambda c: spoilt(c, indexer_topk="%%%"), "no base64"),
        (lambda c: spoilt(c, indexer_topk="AAAA"), "3 bytes are no int32 [42 tokens, 3 "),
        (lambda c: spoilt(c, indexer_topk=""), "0 bytes are no int32"),
        (lambda c: spoilt(c, indexer_topk=7), "expected base64 text"),
        (lambda c: spoilt(c, indexer_topk_num_layers=0), "0 layers"),
        (lambda c: spoilt(c, indexer_topk_num_layers="3"), "expected a whole number"),
        (lambda c: spoilt(c, prompt_tokens=-1), "expected a whole number"),
        (lambda c: spoilt(c, completion_tokens=None), "counts no prompt_tokens"),
        (lambda c: [{"text": "…"}], "holds no indexer_topk"),
        (lambda c: [{"sample": "first", **r} for r in both(c, sglang)], "has a selection already"),
        (lambda c: [{"sample": "frist", **r} for r in both(c, sglang)], "did you mean 'first'"),
        (lambda c: half_named(c), "name all or none"),
        (lambda c: ids(c, [5] * 40),
         "its token ids are not those of sample 'first'"),
        (lambda c: ids(c, [5]), "1 prompt token ids"),
        (lambda c: ids(c, "5"), "no list of whole"),
        (lambda c: first(c, engine(c, 0)[4:]), "--start"),
        (lambda c: first(c, engine(c, 0)[:, :2]), "the capture's layer 2 is none of"),
        (lambda c: first(c, engine(c, 0)[0, 0]), "shape (8,)"),
        (lambda c: [3], "expected an engine's response"),
        (lambda c: [{"response": 3}], "expected an object"),
        (lambda c: "{", "cannot be read as JSON"),
        (lambda c: "[" * 100_000, "cannot be read as JSON"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_and_writes_nothing(capture, tmp_path, make, said):
    done = run("import-selection", capture, written(tmp_path / "e.json", make(capture)))
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (capture / "selections").exists()


def test_right_token_ids_are_taken(capture, tmp_path):
    responses = both(capture, vllm)
    for response, ids in zip(responses, IDS.values(), strict=True):
        response["prompt_token_ids"] = ids
    assert run("import-selection", capture, written(tmp_path / "e.json", responses)).exit_code == 0


def npy(kind, shape):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    text = f"{header}{' ' * (117 - len(header))}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.npy", b"nothing", "no whole .npy"),
        ("a.npy", npy("<i4", "(9999999999, 61, 2048)"),
         "and 0 bytes follow"),
        ("a.npy", npy("|O", "(1,)") + b"cos\nsystem\n",
         "holds object, not integers"),
        ("a.npy", npy("<f4", "(1, 1, 1)") + b"0000",
         "holds float32, not integers"),
        ("a.npz", b"PK\x03\x04", "no whole .npz"),
        ("a.safetensors", b"\xff" * 16, "no whole .safetensors"),
        ("a.pkl", b"cos\nsystem\n(S'true'\ntR.", "expected .json, .jsonl, .npy"),
        ("a.pt", b"x", "expected .json"),
    ],
)  # fmt: skip
def test_hostile_files_are_one_line(capture, tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    done = run("import-selection", capture, tmp_path / name)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_is_replaced_unasked(capture, tmp_path):
    file = written(tmp_path / "e.json", both(capture, sglang))
    out = tmp_path / "s.safetensors"
    assert run("import-selection", capture, file, "-o", out).exit_code == 0
    before = out.read_bytes()
    again = run("import-selection", capture, file, "-o", out)
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert run("import-selection", capture, file, "-o", out, "--force").exit_code == 0
    assert out.read_bytes() == before
    assert "ends in .safetensors" in run("import-selection", capture, file, "-o", "s.npy").stderr
    assert "no such file" in run("import-selection", capture, "absent.json").stderr


def test_an_indexer_of_units_is_refused(tmp_path):
    record = make_record(0, 40)
    spans = torch.arange(40).reshape(20, 2)[:, :1] + torch.tensor([0, 2])
    indexer = replace(
        record.indexer,
        keys=record.indexer.keys[:20],
        native=record.indexer.native.clamp(max=19),
        spans=spans,
    )
    kept = create(tmp_path / "capture", {"model": "m", "layers": [0]}, SAMPLES[:1])
    kept.save(SAMPLES[0], replace(record, indexer=indexer, witness=None))
    np.save(tmp_path / "a.npy", np.zeros((40, 1, 8), np.int32))
    done = run("import-selection", tmp_path / "capture", tmp_path / "a.npy")
    assert done.exit_code == 2, done.output
    assert "selects units that span several tokens" in done.stderr
