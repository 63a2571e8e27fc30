"""Every family: what a probe records is what the model's own eager attention did."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from indexer_probes.capture import capture
from indexer_probes.records import LayerRecord

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def captured(model: PreTrainedModel, tokens: Tensor, **settings: object) -> list[LayerRecord]:
    records: list[LayerRecord] = []
    with capture(model, records.append, **settings):
        model(input_ids=tokens, use_cache=False)
    return records


def eager_copy(model: PreTrainedModel) -> PreTrainedModel:
    copied = copy.deepcopy(model)
    copied.set_attn_implementation("eager")
    return copied


def weights_of(record: LayerRecord) -> Tensor:
    """float32 [head, query, key] by the record alone: mask, selection and sinks applied."""
    logits = record.logits(slice(None))
    if record.indexer is not None:
        native = record.indexer.native[0]
        picked = torch.zeros(record.rows, record.length + 1, dtype=torch.bool)
        picked.scatter_(1, native.masked_fill(native < 0, record.length), True)
        logits = logits.masked_fill(~picked[:, :-1], float("-inf"))
    if record.mask.sinks is not None:
        sinks = record.mask.sinks[:, None, None].expand(-1, record.rows, 1)
        return torch.cat([logits, sinks], dim=-1).softmax(-1)[..., :-1]
    return logits.softmax(-1)


def test_the_logits_give_the_eager_attention_weights(
    model: PreTrainedModel, tokens: Tensor
) -> None:
    truth = eager_copy(model)(input_ids=tokens, use_cache=False, output_attentions=True).attentions
    records = captured(model, tokens)
    assert [record.layer for record in records] == [0, 1]
    for record in records:
        torch.testing.assert_close(weights_of(record), truth[record.layer][0].float(), **CLOSE)


def test_the_witness_is_the_eager_attention(model: PreTrainedModel, tokens: Tensor) -> None:
    truth = eager_copy(model)(input_ids=tokens, use_cache=False, output_attentions=True).attentions
    kept = torch.arange(5, tokens.shape[1], 3)
    for record in captured(model, tokens, rows=lambda length: kept, witnesses=3):
        assert record.witness is not None
        assert record.witness.rows.tolist() == [0, 6, len(kept) - 1]  # both ends and between
        seen = truth[record.layer][0][:, kept[record.witness.rows]]
        torch.testing.assert_close(record.witness.weights, seen.float(), **CLOSE)


def test_the_values_give_the_attention_output(model: PreTrainedModel, tokens: Tensor) -> None:
    outputs: list[Tensor] = []
    eager = eager_copy(model)
    for layer in eager.model.layers:
        layer.self_attn.o_proj.register_forward_pre_hook(lambda m, args: outputs.append(args[0]))
    eager(input_ids=tokens, use_cache=False)
    for record in captured(model, tokens, values=True):
        values = record.float_values
        assert values is not None
        mixed = weights_of(record) @ values.repeat_interleave(record.group, dim=0)
        truth = outputs[record.layer][0]
        torch.testing.assert_close(mixed.transpose(0, 1).flatten(1), truth, **CLOSE)


def test_values_are_kept_only_when_asked_for(model: PreTrainedModel, tokens: Tensor) -> None:
    assert all(record.keys.values() is None for record in captured(model, tokens))


def test_the_model_computes_the_same_while_probed(
    model: PreTrainedModel, tokens: Tensor, chunking: str
) -> None:
    plain = model(input_ids=tokens, use_cache=False).logits
    eager = eager_copy(model)(input_ids=tokens, use_cache=False).logits
    with capture(model, lambda record: None):
        probed = model(input_ids=tokens, use_cache=False).logits
    assert not torch.equal(plain, torch.zeros_like(plain))
    torch.testing.assert_close(probed, plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(probed, eager, atol=1e-4, rtol=1e-4)


def test_windows_and_sinks_are_recorded(build, tokens: Tensor) -> None:  # type: ignore[no-untyped-def]
    def windows(case: str) -> list[int | None]:
        return [record.mask.window for record in captured(build(case), tokens)]

    assert windows("llama") == [None, None]
    assert windows("qwen2-window") == [None, 5]
    assert windows("qwen3-window") == [None, 5]
    assert windows("mistral-window") == [7, 7]
    assert windows("gpt_oss") == [6, None]
    gpt_oss = build("gpt_oss")
    for record in captured(gpt_oss, tokens):
        assert record.mask.sinks is not None
        sinks = gpt_oss.model.layers[record.layer].self_attn.sinks
        torch.testing.assert_close(record.mask.sinks, sinks, atol=0, rtol=0)
