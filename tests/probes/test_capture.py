"""A capture leaves no trace, hands records on as they come, and refuses what it cannot record."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import _len_torch_function_stack
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from indexer_probes.capture import all_rows, capture
from indexer_probes.errors import ProbeError
from indexer_probes.records import LatentKeys, LayerRecord, PlainKeys

Build = Callable[[str], PreTrainedModel]
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called", "_backward_hooks")


def traces(model: PreTrainedModel) -> dict[str, Any]:
    """All that a capture could leave behind: hooks, attributes, configurations, tables, modes."""
    modules = dict(model.named_modules())
    return {
        "hooks": {name: [len(getattr(m, h)) for h in HOOKS] for name, m in modules.items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "training": {name: module.training for name, module in modules.items()},
        "configs": {
            name: copy.deepcopy(vars(module.config))
            for name, module in modules.items()
            if hasattr(module, "config")
        },
        "attention": dict(ALL_ATTENTION_FUNCTIONS),
        "masks": dict(ALL_MASK_ATTENTION_FUNCTIONS),
        "modes": _len_torch_function_stack(),
    }


def drop(record: LayerRecord) -> None:
    pass


def test_nothing_is_left_behind(model: PreTrainedModel, tokens: Tensor) -> None:
    before = traces(model)
    with capture(model, drop):
        assert traces(model) != before
        model(input_ids=tokens, use_cache=False)
    assert traces(model) == before


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_attention_implementation_comes_back(build: Build, implementation: str) -> None:
    model = build("deepseek_v32")
    model.set_attn_implementation(implementation)
    with capture(model, drop):
        assert model.config._attn_implementation == "indexer_probes"
    assert model.config._attn_implementation == implementation


class Stop(Exception):
    pass


def stop(*_: object) -> None:
    raise Stop


def test_nothing_is_left_behind_when_the_body_raises(model: PreTrainedModel) -> None:
    before = traces(model)
    with pytest.raises(Stop), capture(model, drop):
        raise Stop
    assert traces(model) == before


def test_nothing_is_left_behind_when_the_consumer_raises(
    model: PreTrainedModel, tokens: Tensor
) -> None:
    before = traces(model)
    with pytest.raises(Stop), capture(model, stop):
        model(input_ids=tokens, use_cache=False)
    assert traces(model) == before


@pytest.mark.parametrize("where", ["in", "before"])
def test_nothing_is_left_behind_when_the_indexer_raises(
    build: Build, tokens: Tensor, where: str
) -> None:
    model = build("deepseek_v32")
    indexer = model.model.layers[1].self_attn.indexer
    if where == "in":
        indexer.wk.register_forward_pre_hook(stop)
    else:  # registered first, so it raises before the probe's own hook runs
        indexer.register_forward_pre_hook(stop)
    before = traces(model)
    with capture(model, drop) as probe:
        for _ in range(2):  # the first failure must not spoil the second run
            with pytest.raises(Stop):
                model(input_ids=tokens, use_cache=False)
        assert probe.records == 2
    assert traces(model) == before


def test_a_setting_refused_on_entry_leaves_nothing_behind(model: PreTrainedModel) -> None:
    before = traces(model)
    with suppress(ProbeError), capture(model, drop, layers=[9]):
        raise AssertionError("layer 9 does not exist")
    assert traces(model) == before


def test_captures_nest(model: PreTrainedModel, tokens: Tensor) -> None:
    outer: list[LayerRecord] = []
    inner: list[LayerRecord] = []
    before = traces(model)
    with capture(model, outer.append, layers=[0]):
        alone = traces(model)
        with capture(model, inner.append, rows=lambda n: torch.tensor([2, n - 1])):
            model(input_ids=tokens, use_cache=False)
        assert traces(model) == alone
        model(input_ids=tokens, use_cache=False)
    assert traces(model) == before
    assert [record.layer for record in outer] == [0, 0]
    assert [record.layer for record in inner] == [0, 1]
    picked = outer[0].at(torch.tensor([2, 40]))
    assert torch.equal(picked.queries, inner[0].queries)
    assert torch.equal(picked.keys.keys(), inner[0].keys.keys())


def test_captures_of_two_models_nest(build: Build, tokens: Tensor) -> None:
    first, second = build("llama"), build("gpt_oss")
    before = traces(first), traces(second)
    seen: list[str] = []
    with (
        capture(first, lambda r: seen.append("first"), layers=[1]),
        capture(second, lambda r: seen.append("second"), layers=[1]),
    ):
        second(input_ids=tokens)
        first(input_ids=tokens)
    assert seen == ["second", "first"]
    assert (traces(first), traces(second)) == before


def test_layers_arrive_in_order_each_as_it_has_run(model: PreTrainedModel, tokens: Tensor) -> None:
    events: list[tuple[str, int]] = []
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda m, a, o, number=number: events.append(("ran", number)))
    with capture(model, lambda record: events.append(("record", record.layer))) as probe:
        model(input_ids=tokens, use_cache=False)
    assert events == [("record", 0), ("ran", 0), ("record", 1), ("ran", 1)]
    assert probe.records == 2


def test_only_the_layers_asked_for(model: PreTrainedModel, tokens: Tensor) -> None:
    seen: list[int] = []
    with capture(model, lambda record: seen.append(record.layer), layers=[1, 1]) as probe:
        model(input_ids=tokens, use_cache=False)
    assert seen == [1]
    assert probe.layers == (1,)


def test_tensors_hold_only_what_was_asked_and_pin_nothing(
    model: PreTrainedModel, tokens: Tensor
) -> None:
    records: list[LayerRecord] = []
    kept = torch.tensor([4, 9, 30])
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with capture(model, records.append, rows=lambda n: kept, values=True):
        model(input_ids=tokens, use_cache=False)
    for record in records:
        assert record.positions.tolist() == [4, 9, 30]
        assert record.queries.shape[1] == 3
        for name, tensor in record.tensors():
            storage = tensor.untyped_storage()
            assert storage.nbytes() == tensor.numel() * tensor.element_size(), name
            assert storage.data_ptr() not in parameters, name
            assert tensor.is_contiguous(), name
            assert not tensor.requires_grad, name


def test_one_layers_record_at_a_time_is_alive(model: PreTrainedModel, tokens: Tensor) -> None:
    alive: list[weakref.ref[LayerRecord]] = []

    def consume(record: LayerRecord) -> None:
        assert all(earlier() is None for earlier in alive)
        alive.append(weakref.ref(record))

    with capture(model, consume):
        model(input_ids=tokens, use_cache=False)
    assert len(alive) == 2
    assert alive[-1]() is None


def test_the_row_rule_is_asked_once_a_forward(model: PreTrainedModel, tokens: Tensor) -> None:
    records: list[LayerRecord] = []
    with capture(model, records.append, rows=lambda n: torch.randperm(n)[:7].sort().values):
        model(input_ids=tokens, use_cache=False)
    assert torch.equal(records[0].positions, records[1].positions)


def test_gradients_flow_through_and_records_are_detached(
    model: PreTrainedModel, tokens: Tensor
) -> None:
    model.requires_grad_(True)
    model(input_ids=tokens, use_cache=False).logits.sum().backward()
    projection = model.model.layers[0].self_attn.o_proj.weight
    truth, projection.grad = projection.grad, None
    records: list[LayerRecord] = []
    with capture(model, records.append, values=True):
        model(input_ids=tokens, use_cache=False).logits.sum().backward()
    torch.testing.assert_close(projection.grad, truth, atol=1e-3, rtol=1e-3)
    assert not any(t.requires_grad for record in records for _, t in record.tensors())


@pytest.mark.parametrize("name", ["llama", "qwen3-window", "gpt_oss", "deepseek_v32"])
def test_a_cache_brings_the_same_records_piece_by_piece(
    build: Build, tokens: Tensor, name: str
) -> None:
    model = build(name)
    whole: list[LayerRecord] = []
    parts: list[LayerRecord] = []
    with capture(model, whole.append):
        logits = model(input_ids=tokens, use_cache=False).logits
    indexed = name == "deepseek_v32"  # its cache must also hold index keys
    cache = DynamicCache(config=model.config) if indexed else DynamicCache()
    cached = []
    with capture(model, parts.append, layers=[1], rows=all_rows):
        for piece in (tokens[:, :25], tokens[:, 25:40], tokens[:, 40:]):  # prefill twice, decode
            cached.append(model(input_ids=piece, past_key_values=cache).logits)
    torch.testing.assert_close(torch.cat(cached, dim=1), logits, atol=1e-4, rtol=1e-4)
    assert [record.positions[0].item() for record in parts] == [0, 25, 40]
    assert [record.length for record in parts] == [25, 40, 41]
    for record in parts:
        truth = whole[1].at(record.positions)
        torch.testing.assert_close(record.queries, truth.queries, atol=1e-4, rtol=1e-4)
        keys = truth.keys.keys()[:, : record.length]
        torch.testing.assert_close(record.keys.keys(), keys, atol=1e-4, rtol=1e-4)
        assert record.witness is not None
        assert record.witness.weights.shape[-1] == record.length
    if indexed:
        assert isinstance(parts[0].keys, LatentKeys)
        assert isinstance(parts[1].keys, LatentKeys | PlainKeys)  # a cache of either kind


def test_a_forward_without_kept_rows_gives_no_record(build: Build, tokens: Tensor) -> None:
    model, cache = build("llama"), DynamicCache()
    records: list[LayerRecord] = []
    with capture(model, records.append, rows=lambda n: torch.tensor([1])):
        model(input_ids=tokens[:, :4], past_key_values=cache)
        model(input_ids=tokens[:, 4:], past_key_values=cache)
    assert [record.length for record in records] == [4, 4]


def run(model: PreTrainedModel, tokens: Tensor, settings: dict[str, Any], **inputs: Any) -> None:
    with capture(model, drop, **settings):
        model(**{"input_ids": tokens, "use_cache": False, **inputs})


@pytest.mark.parametrize("name", ["llama", "mistral-window", "deepseek_v32"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"input_ids": t.repeat(2, 1)}, "batch of 2 sequences"),
        (lambda t: {"attention_mask": (t > t[0, 0]).long()}, "attention_mask holds zeros"),
        (
            lambda t: {"attention_mask": torch.ones(1, 1, 41, 41, dtype=torch.bool)},
            "differs from the model's own",
        ),
        (
            lambda t: {"position_ids": torch.cat([torch.arange(20), torch.arange(21)])[None]},
            "packed sequences",
        ),
    ],
)
def test_inputs_that_cannot_be_recorded(
    build: Build, tokens: Tensor, name: str, change: Callable[[Tensor], dict], message: str
) -> None:
    with pytest.raises(ProbeError, match=message):
        run(build(name), tokens, {}, **change(tokens))


def test_a_mask_of_ones_is_no_padding(model: PreTrainedModel, tokens: Tensor) -> None:
    run(model, tokens, {}, attention_mask=torch.ones_like(tokens))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [0, 2]}, "layer 2 is not in the model; it has layers 0 to 1"),
        ({"layers": [-1]}, "layer -1 is not in the model"),
        ({"layers": []}, "no layer asked for"),
        ({"rows": lambda n: torch.arange(0)}, "keeps no query"),
        (
            {"rows": lambda n: torch.tensor([3, 2])},
            r"increasing positions in 0..40; it gave \[3, 2",
        ),
        ({"rows": lambda n: torch.tensor([2, 2])}, "increasing positions"),
        ({"rows": lambda n: torch.tensor([0, n])}, r"it gave \[0, 41\]"),
        ({"rows": lambda n: torch.tensor([-1, 3])}, "increasing positions"),
        ({"rows": lambda n: torch.ones(n)}, "int64 tensor"),
        ({"rows": lambda n: [1, 2]}, "int64 tensor"),
    ],
)
def test_settings_that_cannot_work(
    build: Build, tokens: Tensor, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProbeError, match=message):
        run(build("llama"), tokens, settings)


def test_training_mode_is_refused(build: Build) -> None:
    with pytest.raises(ProbeError, match=r"model\.eval\(\)"), capture(build("llama").train(), drop):
        pass


@pytest.mark.parametrize(
    ("name", "path", "what"),
    [
        ("llama", "q_proj", "layer 1: queries hold NaN"),
        ("llama", "k_proj", "layer 1: keys hold NaN"),
        ("deepseek_v32", "q_b_proj", "layer 1: queries hold NaN"),
        ("deepseek_v32", "kv_a_proj_with_mqa", "layer 1: keys hold NaN"),
        ("deepseek_v32", "indexer.wq_b", "layer 1: the indexer's queries hold NaN"),
        ("deepseek_v32", "indexer.wk", "layer 1: the indexer's keys hold NaN"),
    ],
)
def test_nan_is_named_with_its_layer(
    build: Build, tokens: Tensor, name: str, path: str, what: str
) -> None:
    model = build(name)
    model.model.layers[1].self_attn.get_submodule(path).weight[0, 0] = float("nan")
    with pytest.raises(ProbeError, match=what):
        run(model, tokens, {})


def test_a_family_without_a_probe_names_those_that_have_one() -> None:
    config = AutoConfig.for_model("mamba", hidden_size=8, num_hidden_layers=1, vocab_size=16)
    model = AutoModelForCausalLM.from_config(config).eval()
    with (
        pytest.raises(ProbeError, match=r"model type 'mamba', and none was found by proof.*llama"),
        capture(model, drop),
    ):
        pass


def test_something_else_than_a_transformers_model_is_refused() -> None:
    with (
        pytest.raises(ProbeError, match="Linear is no transformers model"),
        capture(nn.Linear(2, 2).eval(), drop),
    ):
        pass


def test_attention_that_bypasses_the_interface_is_refused(build: Build) -> None:
    class Homemade(nn.Module):
        layer_idx, o_proj = 0, None

    model = build("llama")
    model.model.layers[0].self_attn = Homemade()
    with (
        pytest.raises(ProbeError, match="Homemade does not go through transformers' attention"),
        capture(model, drop),
    ):
        pass


def test_a_quantised_up_projection_is_refused_before_anything_runs(build: Build) -> None:
    model = build("deepseek_v32")
    projection = model.model.layers[1].self_attn.kv_b_proj
    projection.weight = nn.Parameter(projection.weight.to(torch.float8_e4m3fn), requires_grad=False)
    before = traces(model)
    with (
        pytest.raises(ProbeError, match=r"layer 1 cannot be captured: its kv_b_proj.*float8"),
        capture(model, drop),
    ):
        pass
    assert traces(model) == before


def test_an_adapted_up_projection_is_refused(build: Build) -> None:
    class Adapter(nn.Module):
        """Adds to a linear layer's output, and shows the untouched weight as its own."""

        def __init__(self, base: nn.Linear):
            super().__init__()
            self.base, self.weight = base, base.weight

        def forward(self, hidden: Tensor) -> Tensor:
            return self.base(hidden) + 1.0

    model = build("deepseek_v32")
    attention = model.model.layers[1].self_attn
    attention.kv_b_proj = Adapter(attention.kv_b_proj)
    with (
        pytest.raises(ProbeError, match=r"layer 1 cannot be captured: its kv_b_proj is a Adapter"),
        capture(model, drop),
    ):
        pass


def test_a_cache_that_drops_keys_is_refused(build: Build, tokens: Tensor) -> None:
    model = build("mistral-window")
    cache = DynamicCache(config=model.config)
    with capture(model, drop):
        model(input_ids=tokens[:, :20], past_key_values=cache)
        with pytest.raises(ProbeError, match="needs every earlier key"):
            model(input_ids=tokens[:, 20:], past_key_values=cache)
