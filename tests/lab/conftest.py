"""Small captures made of random numbers: no model needed to test what happens on disk."""

import pytest
import torch

from indexer_lab.store.capture import SampleInfo, create
from indexer_probes.records import IndexerRecord, LatentKeys, LayerRecord, PlainKeys, Witness

SAMPLES = [SampleInfo("first", "niah", 40, "7"), SampleInfo("../second", "niah", 32, "8")]
LAYERS = [0, 2]


def indexer_part(rows, length, positions, budget=8):
    heads, dim = 2, 8
    queries, keys = torch.randn(heads, rows, dim), torch.randn(length, dim)
    weights = torch.randn(rows, heads)
    blank = torch.full((1, rows, budget), -1)
    record = IndexerRecord(queries, keys, weights, dim**-0.5, blank)
    hidden = torch.arange(length)[None] > positions[:, None]
    scores = record.scores(slice(0, rows)).masked_fill(hidden, -torch.inf)
    values, native = scores.topk(budget)
    native = native.masked_fill(values == -torch.inf, -1)[None]
    return IndexerRecord(queries, keys, weights, dim**-0.5, native)


def witnessed(record):
    """The record with its own softmax on two rows as the witness."""
    rows = torch.tensor([0, record.rows - 1])
    logits = record.logits(rows)
    if record.indexer is not None:
        kept = torch.zeros(2, record.length + 1, dtype=torch.bool)
        native = record.indexer.native[0, rows]
        kept.scatter_(-1, native.masked_fill(native < 0, record.length), True)
        logits = logits.masked_fill(~kept[:, :-1], -torch.inf)
    witness = Witness(rows, logits.softmax(-1))
    return LayerRecord(**{**vars_of(record), "witness": witness})


def vars_of(record):
    names = ("layer", "queries", "keys", "positions", "scale", "mask", "indexer")
    return {name: getattr(record, name) for name in names}


def make_record(layer, length, rows=10, indexer=True, seed=0):
    """A multi-head latent record with an indexer, or a grouped-query one without."""
    torch.manual_seed(seed * 100 + layer)
    heads, dim = 4, 12
    positions = torch.arange(length - rows, length)
    queries = torch.randn(heads, rows, dim)
    if indexer:
        weights = torch.Generator().manual_seed(layer)  # a layer's, the same for every sample
        keys = LatentKeys(
            torch.randn(length, 16),
            torch.randn(length, 4),
            torch.randn(heads, 8, 16, generator=weights),
            torch.randn(heads, 6, 16, generator=weights),
        )
    else:
        keys = PlainKeys(torch.randn(2, length, dim), torch.randn(2, length, 6))
    part = indexer_part(rows, length, positions) if indexer else None
    return witnessed(LayerRecord(layer, queries, keys, positions, dim**-0.5, indexer=part))


def write_capture(folder, indexer=True):
    manifest = {"model": "made-up", "layers": LAYERS, "model_type": "deepseek_v32"}
    capture = create(folder, manifest, SAMPLES)
    for number, sample in enumerate(SAMPLES):
        for layer in LAYERS:
            capture.save(sample, make_record(layer, sample.length, indexer=indexer, seed=number))
    return folder


@pytest.fixture
def capture_folder(tmp_path):
    """A whole capture of two samples and two layers, with an indexer."""
    return write_capture(tmp_path / "capture")


@pytest.fixture
def plain_capture_folder(tmp_path):
    """The same without an indexer."""
    return write_capture(tmp_path / "plain-capture", indexer=False)
