"""A selection from a file: what is read, and what is refused with its numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from indexer_lab.errors import InputError
from indexer_lab.selectors import selector
from indexer_probes.records import LayerRecord, PlainKeys

RECORD = LayerRecord(
    4, torch.randn(2, 3, 8), PlainKeys(torch.randn(1, 9, 8)), torch.tensor([2, 5, 8]), 1.0
)


def test_npy_keeps_order_and_moves_pads_last(tmp_path):
    path = tmp_path / "k=3:a,b.npy"
    np.save(path, np.array([[-1, 2, 0], [5, -1, 1], [8, 7, 6]], dtype=np.int32))
    picked = selector(f"recorded:{path}").fit(RECORD).top(3)
    assert picked.tolist() == [[[2, 0, -1], [5, 1, -1], [8, 7, 6]]]


def test_safetensors_are_read_by_layer(tmp_path):
    path = tmp_path / "picked.safetensors"
    save_file({"layer.4": torch.tensor([[0], [1], [2]])}, path)
    assert selector(f"recorded:path={path}").fit(RECORD).top(1).tolist() == [[[0], [1], [2]]]
    save_file({"layer.1": torch.tensor([[0], [1], [2]])}, path)
    with pytest.raises(InputError, match=r"no tensor 'layer.4'; it holds layer.1"):
        selector(f"recorded:{path}").fit(RECORD)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 2), np.int64), "4 rows, and the capture holds 3"),
        (np.zeros((3, 3, 2), np.int64), "3 sets; expected 1 or one for each of 2"),
        (np.zeros((3, 2), np.float32), "float32, not integers"),
        (np.zeros(3, np.int64), "shape"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, array, said):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=said):
        selector(f"recorded:{tmp_path / 'a.npy'}").fit(RECORD)


def test_broken_and_pickled_files_are_refused(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"nothing")
    np.save(tmp_path / "b.npy", np.array([{"a": 1}]), allow_pickle=True)
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    for name in ("a.npy", "b.npy", "c.safetensors"):
        with pytest.raises(InputError, match="no whole"):
            selector(f"recorded:{tmp_path / name}").fit(RECORD)
