"""Captures on disk: what is written comes back, what is broken is refused by name."""

import errno
import json

import pytest
import torch

from indexer_lab.errors import InputError, OutOfRoom
from indexer_lab.store.capture import create, open_capture
from indexer_lab.store.files import folder_name, free_bytes, write_json, written


def test_a_record_comes_back_bit_for_bit(capture_folder):
    from .conftest import make_record

    capture = open_capture(capture_folder)
    sample = capture.samples[1]
    stored, made = capture.record(sample, 2), make_record(2, sample.length, seed=1)
    assert stored.scale == made.scale
    assert stored.indexer.activation == made.indexer.activation
    names = [name for name, _ in made.tensors()]
    assert len(names) == 12
    for (name, left), (other, right) in zip(stored.tensors(), made.tensors(), strict=True):
        assert name == other
        assert torch.equal(left, right), name


def test_an_unsafe_sample_id_stays_inside_the_capture(capture_folder):
    parts = sorted(path.name for path in (capture_folder / "samples").iterdir())
    assert parts == sorted(folder_name(name) for name in ("first", "../second"))
    assert not (capture_folder.parent / "second").exists()
    assert folder_name("a/b").startswith("sha-")
    assert folder_name("sha-1").startswith("sha-")  # cannot be mistaken for a digest
    assert len({folder_name(name) for name in ("a/b", "a\\b", "a:b", "..", ".", "é")}) == 6


def test_a_truncated_part_is_named(capture_folder):
    capture = open_capture(capture_folder)
    part = capture.part(capture.samples[0], 0)
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(InputError, match=r"layer-00.safetensors is damaged"):
        capture.record(capture.samples[0], 0)


def test_a_missing_part_makes_the_capture_unfinished(capture_folder):
    capture = open_capture(capture_folder)
    capture.part(capture.samples[1], 2).unlink()
    with pytest.raises(InputError, match=r"sample '../second' lacks layer 2"):
        open_capture(capture_folder)


def test_another_schema_version_is_refused(capture_folder):
    path = capture_folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(InputError, match="schema version 99"):
        open_capture(capture_folder)


def test_resuming_another_run_names_the_fields(capture_folder):
    with pytest.raises(InputError, match=r"model: 'made-up' -> 'other'"):
        create(capture_folder, {"model": "other", "layers": [0, 2]}, [], resume=True)


def test_a_run_is_not_overwritten_unasked(capture_folder):
    with pytest.raises(InputError, match="--resume to go on or --force to redo"):
        create(capture_folder, {"model": "made-up"}, [])
    assert (capture_folder / "samples").exists()


def test_force_never_empties_a_folder_that_is_not_ours(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        create(tmp_path, {}, [], force=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_nothing_half_written_counts(tmp_path):
    def half(path):
        with written(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        half(tmp_path / "part")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_keeps_what_stood(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    write_json(path, {"a": 1})

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutOfRoom, match="the disk is full") as caught:
        write_json(path, {"a": 2})
    assert caught.value.exit_code == 3
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


def test_a_full_disk_is_told_when_safetensors_says_so(tmp_path):
    """The library raises an error of its own, with the system's only in its words."""
    from safetensors import SafetensorError

    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OutOfRoom, match="the disk is full"), written(tmp_path / "a"):
        raise SafetensorError(said)
    with pytest.raises(SafetensorError, match="share memory"), written(tmp_path / "a"):
        raise SafetensorError("Some tensors share memory")
    assert not list(tmp_path.iterdir())


def test_free_room_of_a_folder_that_does_not_exist_yet(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") > 0
