"""Bytes from shards into tensors: any order, any length, any place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from indexer_probes.streaming import reading
from indexer_probes.streaming.headers import read_header
from indexer_probes.streaming.reading import Reader, forget, plain_rate

TENSORS = {
    "a": torch.arange(7, dtype=torch.int8),
    "b": torch.randn(3, 5),
    "c": torch.randn(9, 3).bfloat16(),
    "d": torch.zeros(0, 4),
    "e": torch.tensor(2.5),
    "f": torch.randn(130, 2).to(torch.float8_e4m3fn),
}


def raw(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("piece", [3, 64, 1 << 20])
@pytest.mark.parametrize("names", ["abcdef", "fb", "e", "d", "ca"])
def test_what_was_saved_is_read(tmp_path, monkeypatch, piece, names):
    monkeypatch.setattr(reading, "PIECE", piece)
    save_file(dict(list(TENSORS.items())[:3]), tmp_path / "one.safetensors")
    save_file(dict(list(TENSORS.items())[3:]), tmp_path / "two.safetensors")
    known = read_header(tmp_path / "one.safetensors") | read_header(tmp_path / "two.safetensors")
    with Reader() as reader:
        read = reader.read(known[name] for name in names).result()
    assert sorted(read.tensors) == sorted(names)
    assert read.size == sum(TENSORS[name].nbytes for name in names)
    assert read.seconds > 0
    for name, tensor in read.tensors.items():
        assert (tensor.dtype, tensor.shape) == (TENSORS[name].dtype, TENSORS[name].shape)
        assert raw(tensor) == raw(TENSORS[name])


def test_a_tensor_at_an_odd_place(tmp_path):
    """Other writers than the library order tensors as they like."""
    facts = {
        "byte": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "real": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    header = json.dumps(facts).encode()
    data = b"\x07" + torch.tensor([1.5, -2.0]).numpy().tobytes()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    with Reader() as reader:
        read = reader.read(read_header(path).values()).result()
    assert read.tensors["byte"].tolist() == [7]
    assert read.tensors["real"].tolist() == [1.5, -2.0]


def test_parts_do_not_share_memory(tmp_path):
    save_file(TENSORS, tmp_path / "one.safetensors")
    entries = read_header(tmp_path / "one.safetensors")
    with Reader() as reader:
        first = reader.read([entries["b"]]).result().tensors["b"]
        second = reader.read([entries["b"]]).result().tensors["b"]
    second.zero_()
    assert torch.equal(first, TENSORS["b"])


def test_the_disk_s_own_rate(tmp_path: Path):
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_bytes(bytes(100_000))
    assert plain_rate(files) > 0
    assert plain_rate([]) == 0
    forget(files)
