"""Tiny random models, one for each way that a family's attention can go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

TOKENS = 41
PLAIN = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # wide enough that attention is far from uniform
}
SPARSE = {
    **PLAIN,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 8,
    "index_n_heads": 4,
    "index_head_dim": 16,
    "first_k_dense_replace": 1,
}
CASES = {
    "llama": ("llama", PLAIN),
    "qwen2": ("qwen2", PLAIN),
    "qwen2-window": (
        "qwen2",
        {**PLAIN, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {**PLAIN, "head_dim": 8}),
    "qwen3-window": (
        "qwen3",
        {
            **PLAIN,
            "head_dim": 8,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
        },
    ),
    "mistral": ("mistral", {**PLAIN, "sliding_window": None}),
    "mistral-window": ("mistral", {**PLAIN, "sliding_window": 7}),
    "mistral-wide-window": ("mistral", {**PLAIN, "sliding_window": TOKENS}),
    "gpt_oss": (
        "gpt_oss",
        {
            **PLAIN,
            "head_dim": 8,
            "sliding_window": 6,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "deepseek_v32": ("deepseek_v32", {**SPARSE, "index_topk": 9}),
    "deepseek_v32-below-k": ("deepseek_v32", {**SPARSE, "index_topk": 64}),
}


def build_model(case: str) -> PreTrainedModel:
    model_type, settings = CASES[case]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            torch.nn.init.normal_(parameter, std=2.0)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(case: str) -> PreTrainedModel:
    """A model of every case in turn."""
    return build_model(case)


@pytest.fixture
def build() -> Callable[[str], PreTrainedModel]:
    """Makes the model of one named case."""
    return build_model


@pytest.fixture
def tokens() -> Tensor:
    """int64 [1, 41]"""
    return torch.randint(0, 64, (1, TOKENS), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["whole", "chunked"])
def chunking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test twice: with the usual chunks, and with the smallest ones."""
    if request.param == "chunked":
        monkeypatch.setattr("indexer_probes.attention.CHUNK_BYTES", 1)
        monkeypatch.setattr("indexer_probes.postponed.CHUNK_BYTES", 1)
    return request.param
