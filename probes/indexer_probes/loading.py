"""Load a model and its tokenizer for probing; each mistake is one line, told as early as possible.

The configuration is read first, so that a family without a probe costs no download of weights.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils import logging

from indexer_probes.errors import ProbeError
from indexer_probes.families import family_of
from indexer_probes.proving import adopt

DTYPES: dict[str, str | torch.dtype] = {
    "auto": "auto",
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
HUB_SECONDS = 3.0  # to wait for a first answer; the hub's own client retries for over 20 s
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ImportError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)


def load_config(
    name: str, revision: str | None = None, trust_remote_code: bool = False
) -> PretrainedConfig:
    """The configuration of a folder or hub model whose family has a probe.

    Raises ProbeError when there is none to read, or when its family has no probe.
    """
    offline = _locate(name)
    asked = {"revision": revision, "local_files_only": offline}
    try:
        raw, _ = PretrainedConfig.get_config_dict(name, **asked)
        if raw.get("model_type", "") not in CONFIG_MAPPING_NAMES:
            family_of(raw.get("model_type", ""))
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, **asked)
        adopt(config)
        return config
    except ProbeError:
        raise
    except _BROKEN as error:
        raise _explain(f"cannot read the configuration of {name!r}", error, offline) from error


def load_model(
    name: str,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
    placement: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """A causal language model in eval mode on `device`, its gradients off.

    name:  a folder with config.json, or a hub id; revision: branch, tag or commit of the latter.
    dtype: "auto" for the checkpoint's own, or a name in DTYPES, or a torch dtype.
    placement: what else `from_pretrained` is to know of where the weights go; `device` then says
           nothing.
    Raises ProbeError, in one line, for whatever the caller can mend; running out of memory or
    disk passes through.
    """
    kind, place = dtype_of(dtype), device_of(device)
    config = load_config(name, revision, trust_remote_code)
    _refuse_fp8(name, config)
    offline = _locate(name)
    try:
        with quiet():
            model, report = class_of(config).from_pretrained(
                name,
                config=config,
                revision=revision,
                dtype=kind,
                trust_remote_code=trust_remote_code,
                local_files_only=offline,
                ignore_mismatched_sizes=True,  # told below, in one line
                output_loading_info=True,
                **(placement or {}),
            )
    except torch.OutOfMemoryError:
        raise
    except _BROKEN as error:
        raise _explain(f"cannot load the weights of {name!r}", error, offline) from error
    refuse_incomplete(name, report["missing_keys"], report["mismatched_keys"])
    refuse_unplaced(name, config, report["unexpected_keys"])
    placed = model if placement else model.to(place)
    return placed.eval().requires_grad_(False)


def class_of(config: PretrainedConfig) -> Any:
    """The auto class that has a language head for this configuration: some families have one only
    together with their encoders of images, which a prompt of text leaves unused."""
    causal = type(config) in AutoModelForCausalLM._model_mapping
    return AutoModelForCausalLM if causal else AutoModelForImageTextToText


def load_tokenizer(
    name: str, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model. Raises ProbeError when there is none to read."""
    offline = _locate(name)
    try:
        return AutoTokenizer.from_pretrained(
            name,
            revision=revision,
            trust_remote_code=trust_remote_code,
            local_files_only=offline,
        )
    except _BROKEN as error:
        raise _explain(f"cannot read the tokenizer of {name!r}", error, offline) from error


def named_folder(name: str) -> Path | None:
    """The folder of a model that this name is, or None for a hub id.

    Raises ProbeError for a folder without a configuration and for what can be neither.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ProbeError(f"folder {name!r} holds no config.json; name the folder of a model")
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.exists():
        raise ProbeError(f"{name!r} is neither a folder nor a hub id of the form owner/model")
    return None


def _locate(name: str) -> bool:
    """True when only local files can serve this name."""
    return named_folder(name) is not None or constants.HF_HUB_OFFLINE or not hub_answers()


def hub_answers() -> bool:
    """Whether the hub's host takes a connection; a proxy is trusted to."""
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    hub = urlsplit(constants.ENDPOINT)
    port = hub.port or (80 if hub.scheme == "http" else 443)
    try:
        socket.create_connection((hub.hostname or "", port), timeout=HUB_SECONDS).close()
    except OSError:
        return False
    return True


def _explain(what: str, error: Exception, offline: bool) -> ProbeError:
    """One line for a failed load. Re-raises a full disk or memory: no mistake in the input."""
    full_disk = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if full_disk or "can't allocate memory" in str(error):  # what torch says of the CPU's memory
        raise error
    if offline and isinstance(error, OSError) and "couldn't connect" in str(error):
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub is not reachable"
        return ProbeError(f"{what}: {reason} and it is not in the cache; name a local folder")
    if isinstance(error, SafetensorError):
        return ProbeError(f"{what}: a file is truncated or broken ({error}); fetch it again")
    if "backend tokenizer" in str(error):
        return ProbeError(f"{what}: it has no tokenizer files that transformers can read")
    lines = str(error).strip().splitlines() or [type(error).__name__]
    kept = lines[:2] if lines[0].rstrip().endswith(":") else lines[:1]
    return ProbeError(f"{what}: {' '.join(line.strip() for line in kept)}")


def quantisation_of(config: PretrainedConfig) -> dict[str, Any] | None:
    """The configuration's `quantization_config` as a table, None when the weights are plain."""
    stated = getattr(config, "quantization_config", None)
    return stated if stated is None or isinstance(stated, dict) else stated.to_dict()


def _refuse_fp8(name: str, config: PretrainedConfig) -> None:
    """Raises ProbeError for FP8 in blocks: transformers' own dequantisation cuts a matrix into
    equal parts, which for one that ends in a partial block gives other weights or none."""
    if (quantisation_of(config) or {}).get("quant_method") == "fp8":
        raise ProbeError(
            f"the weights of {name!r} are stored in FP8 blocks, which only `capture "
            "--stream-layers` reads; use that, or a bfloat16 copy of the weights"
        )


def refuse_incomplete(
    name: str, missing: Iterable[str], mismatched: Iterable[tuple[str, Any, Any]]
) -> None:
    """Raises ProbeError for tensors that loading would have left random.

    mismatched: parameter, shape on disk, shape by the configuration.
    """
    absent = sorted(missing)
    if absent:
        raise ProbeError(
            f"the weights of {name!r} lack {len(absent)} tensors (first: {absent[0]}), which "
            "would be left random; fetch the complete checkpoint"
        )
    strange = sorted(mismatched)
    if strange:
        tensor, stored, expected = strange[0]
        raise ProbeError(
            f"the weights of {name!r} do not fit its config.json: {tensor} is {tuple(stored)} on "
            f"disk and {tuple(expected)} by the configuration ({len(strange)} such tensors)"
        )


def refuse_unplaced(name: str, config: PretrainedConfig, unexpected: Iterable[str]) -> None:
    """Raises ProbeError for tensors of decoder layers that the configuration has no place for.

    The layers that only predict further tokens (multi-token prediction) are rightly left out.
    """
    text = config.get_text_config()
    last = text.num_hidden_layers
    ahead = range(last, last + (getattr(text, "num_nextn_predict_layers", None) or 0))
    layers = ((key, re.search(r"(?:^|\.)layers\.(\d+)\.", key)) for key in sorted(unexpected))
    lost = [key for key, layer in layers if layer and int(layer[1]) not in ahead]
    if lost:
        raise ProbeError(
            f"the weights of {name!r} do not fit its config.json: it has no place for {len(lost)} "
            f"tensors of its layers (first: {lost[0]}), and a capture without them would be of "
            "another model"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """No loading report, which `refuse_incomplete` replaces, and no bar where nobody looks."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def dtype_of(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ProbeError(f"unknown dtype {dtype!r}: known are {', '.join(DTYPES)}")
    return DTYPES[dtype]


def device_of(device: str | torch.device) -> torch.device:
    """The device, tried with a tiny tensor so that a missing one shows before any loading."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ProbeError(f"device {str(device)!r} cannot be used: {reason}") from error
