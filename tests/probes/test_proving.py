"""Families taken on proof: clones that differ in small ways, dense ones, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.models.deepseek_v32 import modeling_deepseek_v32 as v32
from transformers.models.deepseek_v32.configuration_deepseek_v32 import DeepseekV32Config

from indexer_lab.cli import main
from indexer_probes import families
from indexer_probes.capture import capture
from indexer_probes.errors import ProbeError
from indexer_probes.proving import adopt, indexed_types, prove, verdict
from indexer_probes.tiny import TOKENS, shrunk, tiny_config, tiny_model, tiny_tokens

Score = Callable[["CloneIndexer", Tensor, Tensor, Tensor], Tensor]
SCORE: dict[str, Score] = {}


class CloneConfig(DeepseekV32Config):
    model_type = "made_up_dsa"


class CloneIndexer(v32.DeepseekV32Indexer):
    """RoPE at the end of the vector and interleaved, keys kept in bfloat16, and a score that a test
    sets: none of it written anywhere in the probes."""

    @torch.no_grad()
    def forward(self, hidden_states, q_resid, position_embeddings, attention_mask, *rest, **more):  # type: ignore[no-untyped-def]
        cos, sin = position_embeddings
        shape = (*hidden_states.shape[:2], self.n_heads, self.head_dim)
        split = [self.head_dim - self.qk_rope_head_dim, self.qk_rope_head_dim]
        q_pass, q_rot = self.wq_b(q_resid).view(shape).split(split, -1)
        k_pass, k_rot = self.k_norm(self.wk(hidden_states)).unsqueeze(2).split(split, -1)
        rotate = v32.apply_rotary_pos_emb_interleave
        q_rot, k_rot = rotate(q_rot, k_rot, cos, sin, unsqueeze_dim=2)
        queries = torch.cat([q_pass, q_rot], -1).bfloat16()
        keys = torch.cat([k_pass, k_rot], -1).squeeze(2).bfloat16()
        weights = self.weights_proj(hidden_states).float()
        scores = SCORE["now"](self, queries.float(), keys.float(), weights)
        hidden = ~attention_mask if attention_mask.dtype == torch.bool else attention_mask < 0
        scores = scores.masked_fill(hidden, float("-inf"))
        return scores.topk(self.index_topk, dim=-1).indices


class CloneAttention(v32.DeepseekV32Attention):
    def __init__(self, config: CloneConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.indexer = CloneIndexer(config, layer_idx)


CloneAttention.__module__ = v32.__name__  # whose eager attention it uses


class CloneModel(v32.DeepseekV32Model):
    config_class = CloneConfig

    def __init__(self, config: CloneConfig):
        super().__init__(config)
        for number, layer in enumerate(self.layers):
            layer.self_attn = CloneAttention(config, number)
        self.post_init()


def small() -> CloneConfig:
    settings = tiny_config("deepseek_v32").to_dict()
    settings.pop("model_type")
    return CloneConfig(**{**settings, "num_hidden_layers": 2})


@pytest.fixture
def clone() -> Iterator[Callable[[Score], PreTrainedModel]]:
    """A model of a type that nobody ever heard of, with this index score."""
    AutoConfig.register("made_up_dsa", CloneConfig)
    AutoModel.register(CloneConfig, CloneModel)

    def build(score: Score) -> PreTrainedModel:
        SCORE["now"] = score
        return tiny_model(small())

    yield build
    families.PROVEN.clear()
    CONFIG_MAPPING._extra_content.pop("made_up_dsa")
    MODEL_MAPPING._extra_content.pop(CloneConfig)


def product(queries: Tensor, keys: Tensor) -> Tensor:
    return torch.matmul(queries, keys.mT.unsqueeze(1))


def late_scale(self: CloneIndexer, queries: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    mixed = torch.matmul(weights.unsqueeze(-2), product(queries, keys).relu()).squeeze(-2)
    return mixed * (self.n_heads * self.head_dim) ** -0.5


def summed(self: CloneIndexer, queries: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    scores = torch.relu(product(queries, keys)) * self.softmax_scale
    return (scores * weights.unsqueeze(-1)).sum(dim=2)


def without_relu(self: CloneIndexer, queries: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    return torch.matmul(weights.unsqueeze(-2), product(queries, keys)).squeeze(-2)


@pytest.mark.parametrize("score", [late_scale, summed, without_relu])
def test_a_clone_with_small_differences_needs_no_code(
    clone: Callable[[Score], PreTrainedModel], score: Score
) -> None:
    model = clone(score)
    own = model.layers[0].self_attn.indexer
    chosen: list[Tensor] = []
    hook = own.register_forward_hook(lambda module, args, out: chosen.append(out[0]))
    model(input_ids=tiny_tokens(), use_cache=False)
    hook.remove()
    records = []
    with capture(model, records.append):
        model(input_ids=tiny_tokens(), use_cache=False)
    assert "2 selections reproduced" in prove(model)
    for row, native in enumerate(records[0].indexer.native[0].tolist()):
        seen = [key for key in chosen[0][row].tolist() if key <= row]
        assert native[: len(seen)] == seen
    assert records[0].indexer.activation == ("none" if score is without_relu else "relu")


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (
            lambda self, q, k, w: torch.matmul(w.unsqueeze(-2), product(q, k).sigmoid()).squeeze(
                -2
            ),
            "between its two products it calls sigmoid",
        ),
        (
            lambda self, q, k, w: late_scale(self, q, k, w) + torch.arange(float(k.shape[1])),
            r"no known form of the index score .* tried scale 0\.25 with relu \(off by .*none",
        ),
        (
            lambda self, q, k, w: summed(self, q, k, w.relu()).square(),
            "no known form of the index score",
        ),
        (
            lambda self, q, k, w: torch.einsum("bshd,btd,bsh->bst", q, k, w),
            "it made no product of queries and keys",
        ),
        (
            lambda self, q, k, w: (product(q, k) * w.unsqueeze(-1)).relu().sum(dim=2),
            "it calls relu on weighted scores before it sums them",
        ),
    ],
)
def test_a_clone_with_an_unknown_difference_is_refused_with_what_was_tried(
    clone: Callable[[Score], PreTrainedModel], score: Score, reason: str
) -> None:
    model = clone(score)
    with pytest.raises(ProbeError, match=reason) as refused, capture(model, lambda record: None):
        pass
    assert "'made_up_dsa'" in str(refused.value)
    assert "as latent keys, native indexer over tokens" in str(refused.value)
    assert "native indexer over tokens, no window" in str(refused.value)


def test_a_dense_type_without_a_file_is_taken_on_proof() -> None:
    config = AutoConfig.for_model("olmo3")
    assert "olmo3" not in families.FAMILIES
    family = adopt(config)
    assert families.find("olmo3") is family
    model = tiny_model(shrunk(config))
    windows = [family.mask(layer.self_attn).window for layer in model.layers]
    assert windows == [None if kind == "full_attention" else 7 for kind in model.config.layer_types]
    assert prove(model).startswith("4 layers")
    families.PROVEN.clear()


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("gemma2", "an attention weight is off by .* caps its logits"),
        ("llama4_text", "differs from the model's own causal mask"),
        ("mamba", "holds no attention layer"),
        ("bert", "differs from the model's own causal mask"),
    ],
)
def test_what_a_record_cannot_say_is_refused(model_type: str, reason: str) -> None:
    with pytest.raises(ProbeError, match=reason):
        adopt(AutoConfig.for_model(model_type))
    assert families.find(model_type) is None
    assert verdict(model_type).state == "refused"


def test_a_proof_fails_where_the_weights_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    llama = tiny_model(tiny_config("llama"))
    monkeypatch.setattr(nn.functional, "dropout", lambda weights, **rest: weights * 1.01)
    with pytest.raises(ProbeError, match="layer 0: an attention weight is off by"):
        prove(llama)


def test_shrinking_keeps_one_layer_of_each_kind() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    config = AutoConfig.for_model("gemma3_text", num_hidden_layers=12, layer_types=kinds * 2)
    small = shrunk(config)
    assert small.layer_types == ["sliding_attention"] * 3 + ["full_attention"]
    assert small.sliding_window < TOKENS
    assert config.num_hidden_layers == 12


def test_ls_families_says_what_was_proven_here_and_now() -> None:
    out = CliRunner().invoke(main, ["ls", "families", "--json"])
    assert out.exit_code == 0, out.output
    found = json.loads(out.stdout)["families"]
    for name in (*indexed_types(), "llama", "gpt_oss", "phi3"):
        assert found[name]["state"] == "proven", found[name]
    assert "reused" in found["glm_moe_dsa"]["reason"]
    assert found["gemma2"]["state"] == "refused"
    for name in families.FAMILIES:
        absent = name not in CONFIG_MAPPING_NAMES
        assert found[name]["state"] == ("absent" if absent else "proven")
