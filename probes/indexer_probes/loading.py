"""Load a model and its tokenizer for probing; each mistake is one line, told as early as possible.

The configuration is read first, so that a family without a probe costs no download of weights.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
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
) -> PreTrainedModel:
    """A causal language model in eval mode on `device`, its gradients off.

    name:  a folder with config.json, or a hub id; revision: branch, tag or commit of the latter.
    dtype: "auto" for the checkpoint's own, or a name in DTYPES, or a torch dtype.
    Raises ProbeError, in one line, for whatever the caller can mend; running out of memory or
    disk passes through.
    """
    kind, place = _dtype(dtype), _device(device)
    config = load_config(name, revision, trust_remote_code)
    offline = _locate(name)
    try:
        with _quiet():
            model, report = class_of(config).from_pretrained(
                name,
                config=config,
                revision=revision,
                dtype=kind,
                trust_remote_code=trust_remote_code,
                local_files_only=offline,
                ignore_mismatched_sizes=True,  # told below, in one line
                output_loading_info=True,
            )
    except torch.OutOfMemoryError:
        raise
    except _BROKEN as error:
        raise _explain(f"cannot load the weights of {name!r}", error, offline) from error
    _refuse_incomplete(name, report)
    return model.to(place).eval().requires_grad_(False)


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


def _locate(name: str) -> bool:
    """True when only local files can serve this name. Raises ProbeError for a folder without a
    configuration."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ProbeError(f"folder {name!r} holds no config.json; name the folder of a model")
        return True
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.exists():
        raise ProbeError(f"{name!r} is neither a folder nor a hub id of the form owner/model")
    return constants.HF_HUB_OFFLINE or not hub_answers()


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


def _refuse_incomplete(name: str, report: dict[str, Any]) -> None:
    """Raises ProbeError for tensors that loading would have left random."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise ProbeError(
            f"the weights of {name!r} lack {len(missing)} tensors (first: {missing[0]}), which "
            "would be left random; fetch the complete checkpoint"
        )
    strange = sorted(report["mismatched_keys"])
    if strange:
        tensor, stored, expected = strange[0]
        raise ProbeError(
            f"the weights of {name!r} do not fit its config.json: {tensor} is {tuple(stored)} on "
            f"disk and {tuple(expected)} by the configuration ({len(strange)} such tensors)"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No loading report, which `_refuse_incomplete` replaces, and no bar where nobody looks."""
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


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ProbeError(f"unknown dtype {dtype!r}: known are {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _device(device: str | torch.device) -> torch.device:
    """The device, tried with a tiny tensor so that a missing one shows before any loading."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ProbeError(f"device {str(device)!r} cannot be used: {reason}") from error
