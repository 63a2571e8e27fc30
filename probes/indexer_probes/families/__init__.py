"""The model families that a probe knows, keyed by `config.model_type`. Needs torch alone."""

from __future__ import annotations

import difflib

from indexer_probes.errors import ProbeError
from indexer_probes.families import (
    deepseek_v4,
    deepseek_v32,
    glm5_next,
    gpt_oss,
    llama,
    minimax_m3_vl,
    mistral,
    qwen3,
    qwen4_exp,
)
from indexer_probes.families.base import AttentionCall, Family

FAMILIES: dict[str, Family] = {
    "axk2": deepseek_v32.FAMILY,
    "deepseek_v32": deepseek_v32.FAMILY,
    "deepseek_v4": deepseek_v4.FAMILY,
    "dots3_note": deepseek_v32.WINDOWED,
    "glm5_next": glm5_next.FAMILY,
    "glm_moe_dsa": deepseek_v32.SHARING,
    "gpt_oss": gpt_oss.FAMILY,
    "hy_v4": deepseek_v32.SHARING,
    "llama": llama.FAMILY,
    "minimax_m3_vl": minimax_m3_vl.FAMILY,
    "mistral": mistral.FAMILY,
    "mistral_large4": deepseek_v32.SHARING,
    "qwen2": qwen3.FAMILY,
    "qwen3": qwen3.FAMILY,
    "qwen4_exp": qwen4_exp.FAMILY,
}


def known_families() -> list[tuple[str, str]]:
    """(model_type, one-line note) of every family, by name."""
    return sorted((name, family.note) for name, family in FAMILIES.items())


PROVEN: dict[str, Family] = {}
"""Families without a file that `proving.adopt` proved in this process, by model type."""


def find(model_type: str) -> Family | None:
    """The family of a `config.model_type`, also of a model's text part; None without a probe."""
    known = {**PROVEN, **FAMILIES}
    return known.get(model_type) or known.get(model_type.removesuffix("_text"))


def family_of(model_type: str) -> Family:
    """The family of a `config.model_type`. Raises ProbeError for one that has no probe."""
    found = find(model_type)
    if found is not None:
        return found
    if not model_type:
        raise ProbeError("the configuration names no model_type; is this the folder of a model?")
    close = difflib.get_close_matches(model_type, FAMILIES, n=1, cutoff=0.6)
    hint = f" (nearest: {close[0]})" if close else ""
    raise ProbeError(
        f"no probe for model type {model_type!r}{hint}; known are {', '.join(sorted(FAMILIES))}. "
        "To add one, write one file in indexer_probes/families and one line in FAMILIES"
    )


__all__ = ["FAMILIES", "PROVEN", "AttentionCall", "Family", "family_of", "find", "known_families"]
