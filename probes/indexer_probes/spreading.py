"""Loads a model over several devices: accelerate's device map, or transformers' tensor parallelism
in the processes that torchrun starts."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from indexer_probes.errors import ProbeError
from indexer_probes.loading import device_of, load_config, load_model

NAMED_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
DeviceMap = str | Mapping[str, str | int]


def load_mapped(
    name: str,
    device_map: DeviceMap,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A model whose layers lie on several devices; accelerate moves what passes between them.

    device_map: one of NAMED_MAPS, or module name -> device, as accelerate takes it; weights on
                "disk" or "cpu" are brought to a GPU layer by layer.
    Raises ProbeError as `load_model` does.
    """
    for device in [] if isinstance(device_map, str) else device_map.values():
        if device != "disk":
            device_of(f"cuda:{device}" if isinstance(device, int) else device)
    folder = tempfile.mkdtemp(prefix="indexer-lab-offload-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    placement = {"device_map": device_map, "offload_folder": folder}
    return load_model(name, revision, dtype, "cpu", trust_remote_code, placement)


def read_device_map(text: str) -> DeviceMap:
    """A device map as a command line spells it: a name, or a JSON object.

    Raises ProbeError for anything else.
    """
    if text in NAMED_MAPS:
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict) and found and all(type(v) in (int, str) for v in found.values()):
        return found
    raise ProbeError(
        f"device map {text!r}: expected {', '.join(NAMED_MAPS)}, or module names and devices as "
        'JSON, like {"model.embed_tokens": 0, "model.layers.0": 1}'
    )


def load_parallel(
    name: str,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A model whose heads and experts are spread over torchrun's processes, one device each.

    Raises ProbeError outside torchrun, for a model without a plan, and for heads that do not
    divide evenly; in every process alike.
    """
    parts = int(os.environ.get("WORLD_SIZE", "0"))
    if parts < 2:
        raise ProbeError(
            "tensor parallelism needs several processes: start it with `torchrun --nproc-per-node "
            "2 -m indexer_lab capture ...`"
        )
    _refuse_uneven(name, load_config(name, revision, trust_remote_code), parts)
    from transformers.distributed import DistributedConfig

    placement = {"distributed_config": DistributedConfig(tp_plan="auto")}
    return load_model(name, revision, dtype, "cpu", trust_remote_code, placement)


def input_device(model: nn.Module) -> torch.device:
    """Where a model takes its token ids, also while accelerate keeps its weights elsewhere."""
    device: Any = model.device
    hook: Any = getattr(model, "_hf_hook", None)
    if device.type != "meta":
        return device
    return torch.device(getattr(hook, "execution_device", None) or "cpu")


def _refuse_uneven(name: str, config: PretrainedConfig, parts: int) -> None:
    text = config.get_text_config()
    if not getattr(text, "base_model_tp_plan", None):
        raise ProbeError(
            f"{name!r} cannot be spread: transformers has no tensor-parallel plan for "
            f"{text.model_type!r}; use a device map or --stream-layers"
        )
    for what in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(text, what, None) or parts
        if heads % parts:
            raise ProbeError(
                f"{name!r} has {what} {heads}, which {parts} processes cannot share evenly; start "
                "as many as divide it"
            )
