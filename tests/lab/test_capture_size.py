"""The size that is asked of the disk beforehand, against what captures then take."""

from __future__ import annotations

import pytest
import torch

from indexer_lab import capturing
from indexer_lab.capture_size import HEADER, Kept, part_bytes, shared_bytes, state_bytes
from indexer_lab.capturing import Encoded, Plan
from indexer_lab.errors import OutOfRoom
from indexer_lab.positions import parse
from indexer_lab.store.capture import SampleInfo

from ..probes.conftest import CASES, build_model

LENGTH, ROWS = 41, 12


def stored(model, folder, values):
    plan = Plan([0, 1], parse(f"last:{ROWS}"), f"last:{ROWS}", values, witnesses=4)
    ids = torch.arange(LENGTH) % 64
    prompt = Encoded(ids, SampleInfo("one", "", LENGTH))
    taken = capturing.run(model, [prompt], plan, {"layers": [0, 1]}, folder)
    record = taken.record(prompt.info, 1)
    shared = taken.shared(1)
    size = sum(tensor.nbytes for _, tensor in record.tensors())
    return size, taken.part(prompt.info, 1).stat().st_size, shared.exists()


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_bytes_of_a_layer_are_known_from_the_configuration(case, values, tmp_path):
    model = build_model(case).bfloat16()
    tensors, file, shares = stored(model, tmp_path / "c", values)
    kept = Kept(2, values, 4)
    told = part_bytes(model.config, kept, LENGTH, ROWS) - HEADER
    shared = shared_bytes(model.config, kept)
    if shared:
        assert shares
        told += shared - HEADER
    if case == "gpt_oss":
        tensors -= 4 * 4  # its sinks: a number a head, in the shared file's header's room
    assert told == tensors
    assert file < part_bytes(model.config, kept, LENGTH, ROWS)


def test_a_case_by_hand():
    """Llama: 4 heads of 8 numbers over 2 key heads, 100 tokens, 10 rows, 3 witnesses, bf16."""
    config = build_model("llama").config
    queries, keys = 2 * 4 * 10 * 8, 2 * 2 * 100 * 8
    proof = 8 * (10 + 3) + 4 * 4 * 3 * 100
    assert part_bytes(config, Kept(2, False, 3), 100, 10) == HEADER + queries + keys + proof
    assert part_bytes(config, Kept(2, True, 3), 100, 10) == HEADER + queries + 2 * keys + proof
    assert state_bytes(config, 2, 100) == HEADER + 2 * 100 * 32


def test_what_is_whole_already_needs_no_room(tmp_path, monkeypatch):
    model = build_model("llama")
    plan = Plan([0, 1], parse("last:4"), "last:4", False, 2)
    prompt = Encoded(torch.arange(20), SampleInfo("one", "", 20))
    taken = capturing.run(model, [prompt], plan, {"layers": [0, 1]}, tmp_path / "c")
    monkeypatch.setattr(capturing, "free_bytes", lambda folder: 1)
    capturing.run(model, [prompt], plan, {"layers": [0, 1]}, tmp_path / "c", resume=True)
    taken.part(prompt.info, 0).unlink()
    with pytest.raises(OutOfRoom, match=r"needs 0\.0 MB more"):
        capturing.run(model, [prompt], plan, {"layers": [0, 1]}, tmp_path / "c", resume=True)
