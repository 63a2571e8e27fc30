"""A small random model; its tokenizer has a BOS token and a chat template."""

import json
from importlib.util import find_spec

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from indexer_probes.loading import load_model, load_tokenizer

# a machine without the eval extra runs the tests of what is said there
collect_ignore = [] if find_spec("lm_eval") else ["test_helmet.py", "test_lm_eval.py"]

CHAT = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def letters():
    """One token a byte, and a BOS in front of every text."""
    names = ["<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {name: place for place, name in enumerate(names)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", chat_template=CHAT
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "letters"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        initializer_range=0.3, bos_token_id=0, eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    letters().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(model_folder):
    return load_model(str(model_folder))


@pytest.fixture(scope="session")
def tokenizer(model_folder):
    return load_tokenizer(str(model_folder))


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
