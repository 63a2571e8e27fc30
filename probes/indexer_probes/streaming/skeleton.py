"""A transformers model without weights, whose parts can be filled and emptied again.

Parameters live on the meta device until their part is filled. Buffers that no checkpoint holds
(rotary frequencies) are computed once by the model's own code, as `from_pretrained` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig

from indexer_probes.errors import ProbeError
from indexer_probes.loading import class_of, quiet
from indexer_probes.session import attention_layers

EMBEDDING, TRUNK = "embedding", "trunk"
Part = int | str
"""A decoder layer by its number, EMBEDDING, or TRUNK: what else a decoder needs at every layer."""


@dataclass(frozen=True)
class Skeleton:
    """A model on the meta device and the way of its parts.

    layers: the decoder layers, first to last. device: where parts are filled.
    """

    model: PreTrainedModel
    layers: tuple[nn.Module, ...]
    device: torch.device
    dtype: torch.dtype
    _prefixes: Mapping[Part, str]
    _loading: LoadStateDictConfig

    def part_of(self, target: str) -> Part | None:
        """Which part a parameter of the model belongs to; None for what a capture never needs."""
        if (number := self.layer_in(target)) is not None:
            return number if number < len(self.layers) else None
        for part in (EMBEDDING, TRUNK):
            if target.startswith(self._prefixes[part]):
                return part
        return None

    def layer_in(self, target: str) -> int | None:
        """The number of the decoder layer in a parameter's name, also one past the model's last."""
        found = re.match(re.escape(self._prefixes[0][:-2]) + r"(\d+)\.", target)
        return int(found[1]) if found else None

    def targets(self, names: Iterator[str]) -> dict[str, str]:
        """Checkpoint name -> name of the model's parameter that it becomes, or is fused into."""
        known = self.model.state_dict()
        rules = self._loading.weight_mapping or []
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        prefix = self.model.base_model_prefix
        return {
            name: name
            if name in known
            else rename_source_key(name, renamings, converters, prefix, known)[0]
            for name in names
        }

    def load(self, tensors: Mapping[str, Any], device: torch.device | str | None = None) -> Any:
        """Converts tensors of a checkpoint as transformers does and sets them in the model.

        tensors: by checkpoint name; each tensor, or an object that `[...]` turns into one.
        returns: transformers' report: missing, unexpected, mismatched keys, conversion errors.
        """
        loading = replace(self._loading, device_map={"": str(device or self.device)})
        with torch.no_grad(), quiet():
            report, _ = convert_and_load_state_dict_in_model(self.model, dict(tensors), loading)
        return report

    def empty(self, part: Part) -> None:
        """Frees the memory of a part's weights."""
        prefix = self._prefixes[part]
        for name, parameter in list(self.model.named_parameters()):
            if name.startswith(prefix) and self.part_of(name) == part:
                owner = self.model.get_submodule(name.rpartition(".")[0])
                bare = torch.empty_like(parameter, device="meta")
                owner._parameters[name.rpartition(".")[2]] = nn.Parameter(bare, requires_grad=False)


def skeleton(
    config: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
) -> Skeleton:
    """The model of this configuration with no memory behind its weights.

    Raises ProbeError for a model whose decoder layers cannot be told apart.
    """
    with torch.device("meta"):
        model = class_of(config).from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    model.eval().requires_grad_(False)
    layers = _decoder_layers(model)
    _fill_buffers(model, device)
    stem = layers[0][0].rpartition(".")[0]  # of model.layers.0
    prefixes: dict[Part, str] = {number: f"{name}." for number, (name, _) in enumerate(layers)}
    prefixes[EMBEDDING] = f"{_name_of(model, model.get_input_embeddings())}."
    prefixes[TRUNK] = f"{stem.rpartition('.')[0]}."
    loading = LoadStateDictConfig(
        dtype=dtype,
        dtype_plan=model._get_dtype_plan(dtype),
        weight_mapping=get_model_conversion_mapping(model),
    )
    return Skeleton(model, tuple(layer for _, layer in layers), device, dtype, prefixes, loading)


def _decoder_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of each decoder layer, those without softmax attention too: the members of
    the list that holds the attention modules, whose places in it are their layers' numbers."""
    modules = dict(model.named_modules())
    numbers = attention_layers(model)
    places = {_place(name, modules): numbers[m] for name, m in modules.items() if m in numbers}
    stems = {stem for stem, _ in places}
    if len(stems) != 1 or any(place != str(number) for (_, place), number in places.items()):
        raise ProbeError(
            f"{type(model).__name__} keeps its decoder layers in no single list, so they cannot be "
            "streamed one by one; capture it without --stream-layers"
        )
    stem = stems.pop()
    return [(f"{stem}.{place}", layer) for place, layer in modules[stem].named_children()]


def _place(name: str, modules: Mapping[str, nn.Module]) -> tuple[str, str]:
    """The name of the list that a module lies in, at whatever depth, and its place there."""
    while name:
        stem, _, place = name.rpartition(".")
        if isinstance(modules[stem], nn.ModuleList):
            return stem, place
        name = stem
    return "", ""


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _fill_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Computes every buffer that is not part of a checkpoint."""
    for module in model.modules():
        bare = module._non_persistent_buffers_set & {
            name for name, buffer in module._buffers.items() if buffer is not None
        }
        for name in bare:
            module._buffers[name] = torch.empty_like(_buffer(module, name), device=device)
        if bare:
            model._init_weights(module)


def _buffer(module: nn.Module, name: str) -> Tensor:
    buffer = module._buffers[name]
    assert buffer is not None
    return buffer
