"""Decode steps behind a cache: one record of prompt and steps, as one forward would give it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from indexer_lab.validating import prove
from indexer_probes import units
from indexer_probes.capture import capture
from indexer_probes.decoding import capture_decoding, whole_cache
from indexer_probes.errors import ProbeError
from indexer_probes.loading import class_of
from indexer_probes.records import LayerRecord
from indexer_probes.tiny import TOKENS, tiny_config, tiny_tokens

STEPS = 5
TYPES = ["llama", "mistral", "gpt_oss", "deepseek_v32", "glm_moe_dsa", "dots3_note", "hy_v4",
         "minimax_m3_vl", "qwen4_exp"]  # fmt: skip
CLOSE = {"atol": 1e-3, "rtol": 1e-3}


def kept(length: int) -> Tensor:
    return torch.arange(2, length, 3)


def language_model(name: str) -> PreTrainedModel:
    torch.manual_seed(2)
    made = AutoModelForCausalLM.from_config(tiny_config(name), dtype=torch.float32)
    return made.eval().requires_grad_(False)


@pytest.fixture(params=[name for name in TYPES if name in CONFIG_MAPPING_NAMES])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return language_model(request.param)


def decoded(model: PreTrainedModel, **settings: object) -> tuple[list[LayerRecord], list[int]]:
    records: list[LayerRecord] = []
    with torch.inference_mode():
        ids = capture_decoding(
            model, tiny_tokens()[0], STEPS, records.append, None, kept, **settings
        )
    return records, ids


def test_the_tokens_are_those_that_the_model_generates(model: PreTrainedModel) -> None:
    _, ids = decoded(model)
    cache, token, expected = whole_cache(model), tiny_tokens(), []
    with torch.inference_mode():
        for _ in range(STEPS):
            token = model(input_ids=token, past_key_values=cache).logits[:, -1:].argmax(-1)
            expected.append(int(token))
    assert ids == expected


def test_records_validate_and_hold_every_key(model: PreTrainedModel) -> None:
    records, _ = decoded(model, values=True, witnesses=3)
    prompt = kept(TOKENS)
    for record in records:
        assert record.length == TOKENS + STEPS
        assert record.positions.tolist() == [*prompt.tolist(), *range(TOKENS, TOKENS + STEPS)]
        assert record.witness is not None
        rows = record.witness.rows.tolist()
        assert rows[:3] == [0, len(prompt) // 2, len(prompt) - 1]
        assert rows[3:] == [len(prompt), len(prompt) + 2, len(prompt) + 4]
        proof = prove(record, "decoded")
        assert proof.holds, proof


def test_they_are_the_records_of_one_forward(model: PreTrainedModel) -> None:
    records, ids = decoded(model, values=True)
    whole: list[LayerRecord] = []
    tokens = torch.cat([tiny_tokens(), torch.tensor([ids])], dim=1)
    rows = records[0].positions
    with torch.inference_mode(), capture(model, whole.append, rows=lambda n: rows, values=True):
        model(input_ids=tokens, use_cache=False)
    record, truth = records[0], whole[0]  # later layers may flip an expert on a tie of rounding
    torch.testing.assert_close(record.queries, truth.queries, **CLOSE)
    torch.testing.assert_close(record.keys.keys(), truth.keys.keys(), **CLOSE)
    torch.testing.assert_close(record.keys.values(), truth.keys.values(), **CLOSE)
    if truth.indexer is not None:
        ranked, own = (units.ranked(each.indexer, slice(None), rows) for each in (record, truth))
        torch.testing.assert_close(ranked, own, **CLOSE)


def test_a_cache_that_drops_tokens_is_refused() -> None:
    model = language_model("deepseek_v4")
    with pytest.raises(ProbeError, match="steps of deepseek_v4 cannot be captured: its cache"):
        decoded(model)


@pytest.mark.parametrize("name", ["glm5_next", "minimax_m3_vl", "mistral_large4", "llama"])
def test_composite_families_load_with_their_encoders(name: str) -> None:
    if name not in CONFIG_MAPPING_NAMES:
        return
    config = CONFIG_MAPPING_NAMES[name]
    import transformers

    made = getattr(transformers, config)()
    expected = "AutoModelForCausalLM" if name == "llama" else "AutoModelForImageTextToText"
    assert class_of(made).__name__ == expected
