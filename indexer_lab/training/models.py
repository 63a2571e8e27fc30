"""New models and tokenizers from a plan; checkpoints in, checkpoints out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from indexer_lab.errors import InputError, unknown_name
from indexer_lab.training.config import Plan
from indexer_lab.training.look_back import look_back
from indexer_lab.training.tokenizer import train_tokenizer


def new_model(plan: Plan) -> PreTrainedModel:
    """A model with random weights, decided by the plan's seed."""
    if "family" not in plan.model:
        raise InputError("the plan has no model: give model: {family: ..., config: {...}}")
    config = _configuration(plan.model["family"], plan.model.get("config", {}))
    torch.manual_seed(plan.seed)
    try:
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"the plan's model cannot be made: {_line(error)}") from error
    for layer, offsets in enumerate(plan.model.get("look_back", [])):
        look_back(model, layer, offsets)
    return model


def _configuration(family: str, settings: dict[str, Any]) -> PretrainedConfig:
    """A configuration with these settings, each of which its family must know."""
    if family not in CONFIG_MAPPING:
        raise unknown_name("model family in the plan", str(family), CONFIG_MAPPING.keys())
    known = AutoConfig.for_model(family).to_dict()
    for name in settings:
        if name not in known:
            raise unknown_name(f"setting of a {family} model in the plan", str(name), known)
    try:
        return AutoConfig.for_model(family, **settings)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise InputError(f"the plan's model cannot be made: {_line(error)}") from error


def fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, plan: Plan) -> None:
    """Raises InputError when a tokenizer has more entries than its model, or a phase is longer
    than the model's context."""
    entries = model.config.get_text_config().vocab_size
    if len(tokenizer) > entries:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} entries and the model's vocabulary {entries}: "
            "make them equal"
        )
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(phase.length for phase in plan.phases)
    if context is not None and longest > context:
        raise InputError(
            f"the plan trains on {longest} tokens and the model's context is {context}: shorten "
            "the phase, or give the model a larger max_position_embeddings"
        )


def _line(error: Exception) -> str:
    """An exception's text as one line."""
    return " ".join(str(error).split())


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
        raise InputError(f"cannot load the model {path!r}: {_line(error)[:200]}") from error
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
