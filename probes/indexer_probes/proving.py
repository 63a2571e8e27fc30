"""Proof that a family is read right: on a tiny random model, against its own eager attention.

Proven means, over every layer and row: the captured tensors give back the model's own attention
weights, its selection follows from the captured index scores, and the model computes the same while
it is probed. A model type without a file of its own is taken for a generic one on this proof alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from indexer_probes import families, units
from indexer_probes.capture import capture
from indexer_probes.errors import ProbeError
from indexer_probes.families import FAMILIES, Family
from indexer_probes.families.generic import candidates
from indexer_probes.records import LayerRecord, RecordError
from indexer_probes.tiny import shrunk, tiny_config, tiny_model, tiny_tokens

CLOSE = 1e-4
"""Of an attention weight: float32 through a few layers of a tiny model."""
COMMON = (
    "apertus", "arcee", "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "dots1", "ernie4_5",
    "exaone4", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "glm4_moe", "granite", "granitemoe",
    "helium", "hunyuan_v1_dense", "ministral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3",
    "olmoe", "phi", "phi3", "phimoe", "qwen2_moe", "qwen3_moe", "qwen3_next", "seed_oss", "smollm3",
    "stablelm", "starcoder2", "vaultgemma",
)  # fmt: skip
"""Dense types without a file of their own that `ls families` tries; any other one is tried when a
model of it is captured."""


@dataclass(frozen=True)
class Verdict:
    """What is known of one model type with the installed transformers.

    state:  "proven", "refused", or "absent" where this transformers does not have it.
    note:   what the family is; reason: what was proven, or why not.
    """

    name: str
    state: str
    note: str
    reason: str


def adopt(config: PretrainedConfig) -> Family:
    """The family of a configuration; a model type that has no probe is proven on a tiny model of
    this configuration first. Raises ProbeError naming what was tried."""
    name = str(config.get_text_config().model_type)
    known = families.find(str(config.model_type)) or families.find(name)
    if known is not None:
        return known
    if not config.model_type:
        return families.family_of("")
    try:
        family, _ = _first_proven(shrunk(config))
    except ProbeError as error:
        raise ProbeError(
            f"no probe for model type {config.model_type!r}, and none was found by proof: {error}; "
            f"known are {', '.join(sorted(FAMILIES))}"
        ) from error
    families.PROVEN[config.model_type] = families.PROVEN[name] = family
    return family


def verdict(model_type: str) -> Verdict:
    """Tries a model type on a tiny model of it, whether it has a file of its own or not."""
    note = FAMILIES[model_type].note if model_type in FAMILIES else ""
    if model_type not in CONFIG_MAPPING_NAMES:
        return Verdict(model_type, "absent", note, "not in the installed transformers")
    try:
        config = tiny_config(model_type)
        if model_type in FAMILIES:
            return Verdict(model_type, "proven", note, prove(tiny_model(config)))
        family, proof = _first_proven(config)
        return Verdict(model_type, "proven", f"{family.note}, by proof alone", proof)
    except (ProbeError, RecordError) as error:
        return Verdict(model_type, "refused", note, str(error))


def listed(everything: bool = False) -> list[str]:
    """The model types worth a verdict: those with a file, those with an indexer in the installed
    transformers and the common ones; or every causal language model that it has."""
    more = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if everything else COMMON
    return sorted({*FAMILIES, *indexed_types(), *more})


def indexed_types() -> list[str]:
    """Model types whose modeling file in the installed transformers defines an indexer."""
    found = importlib.util.find_spec("transformers")
    assert found is not None
    assert found.origin is not None
    models = Path(found.origin).parent / "models"
    paths = sorted(models.glob("*/modeling_*.py"))
    names = [path.parent.name for path in paths if _defines_indexer(path)]
    return [name for name in names if name in CONFIG_MAPPING_NAMES]


def _defines_indexer(path: Path) -> bool:
    return "Indexer(nn.Module)" in path.read_text(encoding="utf-8")


def _first_proven(config: PretrainedConfig) -> tuple[Family, str]:
    """The first generic family that a tiny model proves, and the proof. Raises ProbeError."""
    model = _built(config)
    tried: list[tuple[str, str]] = []
    for family in candidates(model):
        families.PROVEN[str(config.model_type)] = family
        try:
            return family, prove(model)
        except ProbeError as error:
            tried.append((family.note, str(error)))
        finally:
            del families.PROVEN[str(config.model_type)]
    raise ProbeError(f"a tiny model of it was tried {_together(tried)}{_caps(config)}")


def _together(tried: list[tuple[str, str]]) -> str:
    """What was tried and how it failed, those together that failed alike."""
    ways: dict[str, list[str]] = {}
    for way, error in tried:
        ways.setdefault(error, []).append(way)
    return "; ".join(f"as {' or '.join(names)}: {error}" for error, names in ways.items())


def _caps(config: PretrainedConfig) -> str:
    """What explains weights that no product of queries and keys gives, where something does."""
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return " (attn_logit_softcapping caps its logits, which a record cannot say)" if capped else ""


def prove(model: PreTrainedModel) -> str:
    """What was proven of a tiny model, in words. Raises ProbeError for the first thing that is not
    so, naming the layer."""
    tokens, records = tiny_tokens(), list[LayerRecord]()
    try:
        model.set_attn_implementation("eager")
        with torch.no_grad():
            plain = model(input_ids=tokens, use_cache=False, output_attentions=True)
            with capture(model, records.append, witnesses=0):
                probed = model(input_ids=tokens, use_cache=False)
    except ProbeError:
        raise
    except Exception as error:  # whatever a model type that nobody tried before does
        line = (str(error).strip().splitlines() or [""])[0][:160]
        raise ProbeError(f"it does not run: {type(error).__name__}: {line}") from error
    truth = [weights for weights in plain.attentions or () if weights is not None]
    if not truth or len(truth) != len(records):
        raise ProbeError(
            f"{len(records)} layers were captured and the model gives the weights of {len(truth)}"
        )
    worst = max(_differs(record, own) for record, own in zip(records, truth, strict=True))
    change = (plain.last_hidden_state - probed.last_hidden_state).abs().max()
    if not change <= 10 * CLOSE:
        raise ProbeError(f"its output changes by {float(change):.2g} while it is probed")
    return f"{len(records)} layers, weights within {worst:.0e}{_found(records)}"


def _differs(record: LayerRecord, own: Tensor) -> float:
    """The largest difference of a layer's attention weights. Raises ProbeError over CLOSE."""
    found = weights(record)
    if own.shape[1:] != found.shape:
        raise ProbeError(
            f"layer {record.layer}: weights {tuple(found.shape)} for {tuple(own.shape[1:])}"
        )
    worst = float((found - own[0].float()).abs().max())
    if not worst <= CLOSE:
        raise ProbeError(f"layer {record.layer}: an attention weight is off by {worst:.2g}")
    return worst


def weights(record: LayerRecord) -> Tensor:
    """float32 [head, query, key and entry]: a record's attention, selection and sinks applied."""
    every = slice(None)
    logits = torch.cat([record.key_logits(every), record.entry_logits(every)], dim=-1)
    seen = units.attended(record, every)
    seen = seen.repeat_interleave(len(logits) // len(seen), dim=0)
    logits = logits.masked_fill(~seen, float("-inf"))
    if record.mask.sinks is None:
        return logits.softmax(-1)
    sinks = record.mask.sinks[:, None, None].expand(-1, record.rows, 1)
    return torch.cat([logits, sinks], dim=-1).softmax(-1)[..., :-1]


def _found(records: list[LayerRecord]) -> str:
    """What these layers have: selections that were reproduced, windows and sinks."""
    indexers = [record.indexer for record in records if record.indexer is not None]
    reused = sum(indexer.source is not None for indexer in indexers)
    counts = {
        "selections reproduced": len(indexers) - reused,
        "reused": reused,
        "with a window": sum(record.mask.window is not None for record in records),
        "with sinks": sum(record.mask.sinks is not None for record in records),
        "with compressed entries": sum(record.entries is not None for record in records),
    }
    return "".join(f", {count} {what}" for what, count in counts.items() if count)


def verdicts(names: list[str]) -> Iterator[Verdict]:
    """One after another, so that a caller can show how far it is."""
    yield from map(verdict, names)


def _built(config: PretrainedConfig) -> PreTrainedModel:
    try:
        return tiny_model(config)
    except ProbeError:
        raise
    except Exception as error:  # as above
        line = (str(error).strip().splitlines() or [""])[0][:160]
        raise ProbeError(
            f"no tiny {config.model_type} could be made: {type(error).__name__}: {line}"
        ) from error
