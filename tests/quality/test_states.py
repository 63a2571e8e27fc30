"""A model with a running state cannot take part: its trials would write into each other's."""

from __future__ import annotations

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from indexer_lab.errors import InputError
from indexer_lab.quality.forward import prefill
from indexer_probes.tiny import tiny_config, tiny_model, tiny_tokens


@pytest.mark.parametrize("name", ["qwen4_exp", "glm5_next", "qwen3_next"])
def test_running_states_are_refused(name: str) -> None:
    if name not in CONFIG_MAPPING_NAMES:
        return
    model = tiny_model(tiny_config(name))
    with pytest.raises(InputError, match=r"layer 0 of this .* keeps a running state"):
        prefill(model, tiny_tokens()[0])
