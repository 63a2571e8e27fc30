"""The model families that a probe knows, keyed by `config.model_type`. Needs torch alone."""

from __future__ import annotations

import difflib

from indexer_probes.errors import ProbeError
from indexer_probes.families import deepseek_v32, gpt_oss, llama, mistral, qwen3
from indexer_probes.families.base import AttentionCall, Family

FAMILIES: dict[str, Family] = {
    "deepseek_v32": deepseek_v32.FAMILY,
    "gpt_oss": gpt_oss.FAMILY,
    "llama": llama.FAMILY,
    "mistral": mistral.FAMILY,
    "qwen2": qwen3.FAMILY,
    "qwen3": qwen3.FAMILY,
}


def known_families() -> list[tuple[str, str]]:
    """(model_type, one-line note) of every family, by name."""
    return sorted((name, family.note) for name, family in FAMILIES.items())


def family_of(model_type: str) -> Family:
    """The family of a `config.model_type`. Raises ProbeError for one that has no probe."""
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    if not model_type:
        raise ProbeError("the configuration names no model_type; is this the folder of a model?")
    close = difflib.get_close_matches(model_type, FAMILIES, n=1, cutoff=0.6)
    hint = f" (nearest: {close[0]})" if close else ""
    raise ProbeError(
        f"no probe for model type {model_type!r}{hint}; known are {', '.join(sorted(FAMILIES))}. "
        "To add one, write one file in indexer_probes/families and one line in FAMILIES"
    )


__all__ = ["FAMILIES", "AttentionCall", "Family", "family_of", "known_families"]
