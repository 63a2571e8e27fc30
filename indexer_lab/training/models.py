"""New models and tokenizers from a plan; checkpoints in, checkpoints out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from indexer_lab.errors import InputError
from indexer_lab.training.config import Plan
from indexer_lab.training.look_back import look_back
from indexer_lab.training.tokenizer import train_tokenizer


def new_model(plan: Plan) -> PreTrainedModel:
    """A model with random weights, decided by the plan's seed."""
    if "family" not in plan.model:
        raise InputError("the plan has no model: give model: {family: ..., config: {...}}")
    torch.manual_seed(plan.seed)
    config = AutoConfig.for_model(plan.model["family"], **plan.model.get("config", {}))
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for layer, offsets in enumerate(plan.model.get("look_back", [])):
        look_back(model, layer, offsets)
    return model


def new_tokenizer(plan: Plan) -> PreTrainedTokenizerFast:
    """The tokenizer that a plan describes, the same for every seed of the plan."""
    if set(plan.tokenizer) != {"vocabulary", "files"}:
        raise InputError("the plan has no tokenizer: give tokenizer: {vocabulary: N, files: N}")
    return train_tokenizer(plan.tokenizer["vocabulary"], plan.tokenizer["files"])


def load(path: str, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A checkpoint's model, in float32 for training, and its fast tokenizer."""
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot load the model {path!r}: {reason}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{path} has no fast tokenizer: training needs one")
    return model.to(device), tokenizer


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes a checkpoint in bfloat16 that transformers loads as it is."""
    copy: Any = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _unversioned(folder / "config.json")


def _unversioned(path: Path) -> None:
    """Leaves `layer_types` out of a configuration that has only one: it is what the family makes
    anyway, and transformers' releases name it differently."""
    config = json.loads(path.read_text())
    if len(set(config.get("layer_types", ()))) == 1:
        del config["layer_types"]
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
