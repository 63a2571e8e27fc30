"""Small models and plans that train in seconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import DeepseekV32Config, DeepseekV32ForCausalLM, LlamaConfig, LlamaForCausalLM

from indexer_lab.training.config import Plan, plan_of
from indexer_lab.training.tokenizer import train_tokenizer


@pytest.fixture
def fine() -> dict[str, object]:
    """The least that a plan says."""
    return {
        "phases": [{"length": 8, "batch": 1, "steps": 1}],
        "lr": 0.1,
        "tasks": {"multi_key": 1},
    }


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(vocabulary=1024, files=8)


@pytest.fixture
def dsa():
    torch.manual_seed(0)
    config = DeepseekV32Config(
        vocab_size=1024, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        first_k_dense_replace=2, num_attention_heads=2, num_key_value_heads=2, q_lora_rank=32,
        kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=32,
        index_n_heads=2, index_head_dim=32, index_topk=16, tie_word_embeddings=True,
        initializer_range=0.05, max_position_embeddings=512, bos_token_id=None, eos_token_id=0,
        pad_token_id=0, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    return DeepseekV32ForCausalLM(config)


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        initializer_range=0.05, max_position_embeddings=512,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture
def plan() -> Callable[..., Plan]:
    def make(steps: int = 4, length: int = 64, **changes: object) -> Plan:
        content = {
            "phases": [{"length": length, "batch": 4, "steps": steps}],
            "lr": 0.005,
            "tasks": {"multi_key": 1.0},
            "save": 1e9,
        }
        return plan_of({**content, **changes})

    return make
