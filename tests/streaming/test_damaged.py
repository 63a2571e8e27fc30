"""Each thing that can be wrong with a checkpoint: one line, exit 2, and nothing was written."""

from __future__ import annotations

import pytest

import indexer_lab.capturing as capturing

from .damage import DAMAGED


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint_is_one_line_and_nothing_is_written(name, published, tmp_path, run):
    damage, complaint = DAMAGED[name]
    damage(published)
    done = run(published, tmp_path / "c", "--stream-layers")
    assert done.exit_code == 2, done.output
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "c").exists()


def test_a_shard_that_is_cut_while_it_is_read(published, tmp_path, run, monkeypatch):
    from indexer_probes.streaming.model import StreamedModel

    from .damage import cut

    real = StreamedModel.layers

    def cut_first(self, first, last):
        cut(5000)(published)
        return real(self, first, last)

    monkeypatch.setattr(StreamedModel, "layers", cut_first)
    done = run(published, tmp_path / "c", "--stream-layers")
    assert done.exit_code == 2, done.output
    assert "became shorter while it was read" in done.stderr
    unfinished = [path.name for path in (tmp_path / "c").rglob("layer-01.safetensors")]
    assert not unfinished


@pytest.mark.parametrize("more", [[], ["--stream-layers"]])
def test_too_little_disk_is_known_before_the_first_byte(pair, tmp_path, run, monkeypatch, more):
    model = pair[0] if more else pair[1]
    monkeypatch.setattr(capturing, "free_bytes", lambda folder: 90_000)
    done = run(model, tmp_path / "c", *more)
    assert done.exit_code == 3, done.output
    assert "this capture needs 0.2 MB more" in done.stderr
    assert "has 0.1 MB free: free some room" in done.stderr
    assert not (tmp_path / "c").exists()
