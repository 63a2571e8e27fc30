"""Every native indexer of the installed transformers, against the model's own eager attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from indexer_lab.selectors import selector
from indexer_lab.store import records as stored
from indexer_lab.validating import prove
from indexer_probes import units
from indexer_probes.capture import capture
from indexer_probes.errors import ProbeError
from indexer_probes.families import FAMILIES
from indexer_probes.proving import indexed_types, weights
from indexer_probes.records import LayerRecord
from indexer_probes.steering import steer
from indexer_probes.tiny import tiny_config, tiny_model, tiny_tokens

INDEXED = [name for name in indexed_types() if name in FAMILIES]
UNITS = {"glm5_next": 10, "minimax_m3_vl": 11, "deepseek_v4": 10, "qwen4_exp": 10}
REUSED = {"glm_moe_dsa": {1: 0, 3: 2}, "hy_v4": {1: 0, 3: 2}, "mistral_large4": {1: 0},
          "glm5_next": {2: 1}}  # fmt: skip
"""Layer -> the layer whose selection it reuses, in the tiny configurations."""


@pytest.fixture(params=INDEXED, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> PreTrainedModel:
    made = tiny_model(tiny_config(name))
    made.set_attn_implementation("eager")
    return made


@pytest.fixture(scope="module")
def truth(model: PreTrainedModel) -> list[Tensor]:
    """[head, query, key]: each softmax layer's eager weights in the plain model."""
    with torch.inference_mode():
        out = model(input_ids=tiny_tokens(), use_cache=False, output_attentions=True)
    return [layer[0] for layer in out.attentions if layer is not None]


def captured(model: PreTrainedModel, **settings: object) -> list[LayerRecord]:
    records: list[LayerRecord] = []
    with torch.inference_mode(), capture(model, records.append, **settings):
        model(input_ids=tiny_tokens(), use_cache=False)
    return records


@pytest.fixture(scope="module")
def records(model: PreTrainedModel) -> Iterator[list[LayerRecord]]:
    return captured(model, values=True)


def test_every_indexer_that_transformers_has_is_known() -> None:
    assert set(indexed_types()) <= FAMILIES.keys()
    assert "deepseek_v32" in INDEXED


def test_weights_are_the_eager_ones(records: list[LayerRecord], truth: list[Tensor]) -> None:
    for record, own in zip(records, truth, strict=True):
        torch.testing.assert_close(weights(record), own, atol=2e-5, rtol=1e-3)


def test_what_is_attended_to_is_what_the_model_lets_through(
    records: list[LayerRecord], truth: list[Tensor]
) -> None:
    for record, own in zip(records, truth, strict=True):
        seen = units.attended(record, slice(None))
        seen = seen.repeat_interleave(record.heads // len(seen), dim=0)
        assert torch.equal(own > 0, seen & (weights(record) > 0))
        assert (own > 0).sum() > 0.999 * seen.sum()  # all but what underflows


def test_a_capture_from_disk_validates(
    records: list[LayerRecord], tmp_path: Path, name: str
) -> None:
    indexed = 0
    for record in records:
        part, shared = tmp_path / f"{record.layer}.safetensors", tmp_path / f"{record.layer}-s"
        stored.save(record, part, shared)
        again = stored.load(part, shared)
        for (label, tensor), (other, loaded) in zip(record.tensors(), again.tensors(), strict=True):
            assert label == other
            assert torch.equal(tensor, loaded)
        proof = prove(again, name)
        assert proof.holds, proof
        assert proof.weights_error is not None
        if record.indexer is not None:
            indexed += 1
            assert again.indexer is not None
            assert again.indexer.units_of == record.indexer.units_of
            assert again.indexer.source == record.indexer.source
            assert proof.swapped == 0
    assert indexed


def test_a_wrong_selection_does_not_validate(records: list[LayerRecord], name: str) -> None:
    record = next(record for record in records if record.indexer is not None)
    assert record.indexer is not None
    scores = units.ranked(record.indexer, slice(-1, None), record.positions[-1:])
    native = record.indexer.native.clone()
    native[:, -1, 0] = scores[:, 0].argmin(-1)
    wrong = replace(record, indexer=replace(record.indexer, native=native))
    assert not prove(wrong, name).holds


def test_units_and_reuse_are_reported(records: list[LayerRecord], name: str) -> None:
    indexers = {record.layer: record.indexer for record in records if record.indexer is not None}
    reused = {layer: each.source for layer, each in indexers.items() if each.source is not None}
    assert reused == REUSED.get(name, {})
    for indexer in indexers.values():
        assert (indexer.spans is not None) == (name in UNITS)
        assert indexer.units == UNITS.get(name, records[0].length)


def test_a_reusing_layer_alone_still_has_its_selection(model: PreTrainedModel, name: str) -> None:
    for layer, source in REUSED.get(name, {}).items():
        (record,) = captured(model, layers=[layer])
        assert record.indexer is not None
        assert record.indexer.source == source
        assert prove(record, name).holds


def test_the_model_is_as_it_was(model: PreTrainedModel, truth: list[Tensor]) -> None:
    captured(model)
    with torch.inference_mode():
        out = model(input_ids=tiny_tokens(), use_cache=False, output_attentions=True)
    again = [layer[0] for layer in out.attentions if layer is not None]
    assert all(torch.equal(one, other) for one, other in zip(again, truth, strict=True))


def test_steering_by_the_native_selection_is_the_model(model: PreTrainedModel, name: str) -> None:
    budget = {"glm5_next": 11, "minimax_m3_vl": 12, "qwen4_exp": 11}.get(name, 9)

    def native(record: LayerRecord) -> Tensor:
        if record.indexer is None:
            return torch.arange(record.length).expand(1, record.rows, -1)
        return selector("native").fit(record).top(budget)

    def run() -> Tensor:
        return model(input_ids=tiny_tokens(), use_cache=False).last_hidden_state

    with torch.inference_mode():
        plain = run()
        if name == "deepseek_v4":
            with pytest.raises(ProbeError, match="compressed entries"), steer(model, native):
                run()
            return
        with steer(model, native):
            torch.testing.assert_close(run(), plain, atol=1e-4, rtol=1e-4)
        with steer(model, native, layers=()):
            assert (run() - plain).abs().max() > 0.1


def test_batches_and_padding_are_refused(model: PreTrainedModel) -> None:
    tokens = tiny_tokens()
    padded = torch.ones_like(tokens)
    padded[0, :3] = 0
    with capture(model, lambda record: None):
        with pytest.raises(ProbeError, match="batch of 2 sequences"):
            model(input_ids=tokens.repeat(2, 1), use_cache=False)
        with pytest.raises(ProbeError, match="attention_mask holds zeros"):
            model(input_ids=tokens, attention_mask=padded, use_cache=False)


def test_lower_precision_is_captured_too(name: str) -> None:
    made = tiny_model(tiny_config(name)).to(torch.bfloat16)
    for record in captured(made):
        assert prove(record, name).holds


def test_all_families_exist_or_are_newer_than_this_transformers() -> None:
    assert {name for name in FAMILIES if name in CONFIG_MAPPING_NAMES} >= {"llama", *INDEXED}
