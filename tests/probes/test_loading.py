"""Loading a model: eval mode, gradients off, and one clear line for each thing that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import PreTrainedModel
from transformers.utils.import_utils import KERNELS_MIN_VERSION

from indexer_probes import loading
from indexer_probes.errors import ProbeError
from indexer_probes.families import FAMILIES, known_families
from indexer_probes.loading import load_config, load_model, load_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(build: Callable[[str], PreTrainedModel], tmp_path: Path) -> Path:
    build("llama").bfloat16().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_model_arrives_ready_to_probe(folder: Path) -> None:
    model = load_model(str(folder))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float32", torch.float32])
def test_a_dtype_can_be_asked_for(folder: Path, dtype: str | torch.dtype) -> None:
    assert load_model(str(folder), dtype=dtype).dtype == torch.float32


def test_an_unknown_dtype_names_the_known_ones(folder: Path) -> None:
    with pytest.raises(ProbeError, match=r"unknown dtype 'fp8': known are auto, bfloat16"):
        load_model(str(folder), dtype="fp8")


def test_a_device_that_is_not_there_is_told_before_loading(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="device 'cuda:77' cannot be used"):
        load_model(str(tmp_path / "unread"), device="cuda:77")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "a/b/c"])
def test_a_path_that_does_not_exist(name: str) -> None:
    with pytest.raises(ProbeError, match="neither a folder nor a hub id"):
        load_model(name)


def test_a_folder_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"holds no config\.json"):
        load_model(str(tmp_path))


def test_a_name_that_no_hub_model_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "hub_answers", lambda: False)
    with pytest.raises(ProbeError, match="'what is this': Repo id must"):
        load_model("what is this")


def test_a_hub_out_of_reach_is_told_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    started = time.monotonic()
    with pytest.raises(ProbeError, match="'nobody/nothing': the hub is not reachable"):
        load_model("nobody/nothing")
    assert time.monotonic() - started < loading.HUB_SECONDS


def test_offline_mode_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ProbeError, match="HF_HUB_OFFLINE is set"):
        load_tokenizer("nobody/nothing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a valid JSON"),
        ("[]", "cannot read the configuration"),
        ("{}", "names no model_type"),
        ('{"model_type": "lama"}', r"'lama' \(nearest: llama\); known are"),
        ('{"model_type": "mamba"}', "no probe for model type 'mamba'"),
    ],
)
def test_a_configuration_that_cannot_be_used(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    (folder / "model.safetensors").unlink()  # told before weights are looked for
    with pytest.raises(ProbeError, match=message):
        load_model(str(folder))


def test_a_field_of_the_wrong_type_is_named(folder: Path) -> None:
    rewrite(folder, num_hidden_layers="two")
    with pytest.raises(ProbeError, match="num_hidden_layers"):
        load_config(str(folder))


def test_running_out_of_memory_is_not_told_as_a_mistake(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", no_room)
    with pytest.raises(RuntimeError, match="9 GB") as caught:
        load_model(str(folder))
    assert not isinstance(caught.value, ProbeError)


def test_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ProbeError, match=r"cannot load the weights.*model\.safetensors"):
        load_model(str(folder))


def test_truncated_weights(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ProbeError, match="truncated or broken"):
        load_model(str(folder))


def test_weights_that_would_stay_random(folder: Path) -> None:
    rewrite(folder, num_hidden_layers=3)
    with pytest.raises(ProbeError, match=r"lack \d+ tensors \(first: model\.layers\.2"):
        load_model(str(folder))


def test_weights_of_another_size(folder: Path) -> None:
    rewrite(folder, intermediate_size=48)
    with pytest.raises(ProbeError, match=r"do not fit its config\.json.*\(32, 32\).*\(32, 48\)"):
        load_model(str(folder))


def test_a_folder_without_tokenizer(folder: Path) -> None:
    with pytest.raises(ProbeError, match="cannot read the tokenizer"):
        load_tokenizer(str(folder))


def test_every_family_is_listed_with_a_note() -> None:
    assert [name for name, _ in known_families()] == sorted(FAMILIES)
    assert all(note for _, note in known_families())


def python(code: str) -> str:
    """Runs code as a user would at the repository root; gives what it printed."""
    paths = [str(ROOT / part) for part in ("", "kernels", "probes", "figures")]
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_reading_records_does_not_import_transformers() -> None:
    code = "import sys, indexer_probes.records, indexer_probes.families; print(*sys.modules)"
    loaded = python(code).split()
    assert "torch" in loaded
    assert "transformers" not in loaded


IMPORT = "from transformers import LlamaForCausalLM as it; print(it.__name__)"
PACKAGE = """
taken = []

def __getattr__(name):  # whatever transformers imports from it
    if name.startswith("__"):
        raise AttributeError(name)
    taken.append(name)
    return lambda *args, **kwargs: lambda decorated: decorated
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site folder with a package `kernels`, of a version that this transformers takes."""
    package, facts = tmp_path / "kernels", tmp_path / f"kernels-{KERNELS_MIN_VERSION}.dist-info"
    (package / "layer").mkdir(parents=True)
    facts.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    (package / "layer" / "__init__.py").write_text("")
    (package / "layer" / "mode.py").write_text("class Mode: pass")
    (facts / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n"
    )
    return tmp_path


def test_transformers_imports_beside_our_kernels_folder() -> None:
    assert (ROOT / "kernels" / "indexer_kernels").is_dir()
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert python(IMPORT) == "LlamaForCausalLM"


def test_an_installed_kernels_package_wins_over_our_folder(site: Path) -> None:
    """transformers must take its names from the package, and never from our folder."""
    answer = python(
        f"import sys; sys.path.append({str(site)!r})  # last, as an installed package is found\n"
        f"{IMPORT}\nimport kernels; print(kernels.__file__, *kernels.taken)"
    )
    name, told = answer.splitlines()
    place, *taken = told.split()
    assert name == "LlamaForCausalLM"
    assert place == str(site / "kernels" / "__init__.py")
    assert "LayerRepository" in taken
