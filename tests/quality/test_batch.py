"""The same rows however many samples run side by side, to the bit."""

import json

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoConfig, AutoModelForCausalLM

from indexer_lab.cli import main
from indexer_lab.store.quality import open_quality

PLAIN = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128},
    **{"head_dim": 32, "initializer_range": 0.3},
}
SPARSE = {
    **PLAIN,
    **{"num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 16},
    **{"qk_nope_head_dim": 16, "v_head_dim": 16, "index_n_heads": 4, "index_head_dim": 32},
    **{"index_topk": 9, "first_k_dense_replace": 2, "n_routed_experts": 4, "n_group": 1},
    **{"num_experts_per_tok": 2, "topk_group": 1, "moe_intermediate_size": 16},
}
MODELS = {
    "llama": PLAIN,
    "gpt_oss": {
        **PLAIN,
        **{"sliding_window": 6, "num_local_experts": 4, "num_experts_per_tok": 2},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "deepseek_v32": SPARSE,
}
LENGTHS = (5, 40, 23, 31, 9)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    draw = torch.Generator().manual_seed(5)
    ids = [torch.randint(3, 64, (length,), generator=draw).tolist() for length in LENGTHS]
    path.write_text(
        "\n".join(json.dumps({"id": f"p{n}", "input_ids": i}) for n, i in enumerate(ids))
    )
    return path


@pytest.mark.parametrize("kind", MODELS)
def test_batch_one_and_eight_give_the_same_rows(kind, prompts, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **MODELS[kind])).eval()
    model.save_pretrained(tmp_path / "model")
    extra = ["lightning", "native"] if kind == "deepseek_v32" else ["faiss:Flat"]
    words = ["quality", "--model", tmp_path / "model", "--prompts", prompts, "--tokens", 3]
    words += ["--budget", 4, "--entropy", "last:1", "--quiet"]
    words += [word for name in extra for word in ("--selector", name)]
    words += [word for name in ("decode", "prefill+decode") for word in ("--mode", name)]
    runs = []
    for batch in (1, 8):
        folder = tmp_path / str(batch)
        done = CliRunner().invoke(
            main, [*map(str, words), "--batch", str(batch), "-o", str(folder)]
        )
        assert done.exit_code == 0, done.output
        runs.append(open_quality(folder))
    one, eight = runs
    assert one.manifest == eight.manifest
    pd.testing.assert_frame_equal(one.frame(), eight.frame(), check_exact=True)
    pd.testing.assert_frame_equal(one.entropy(), eight.entropy(), check_exact=True)
    together = {1} if kind == "gpt_oss" else {5}  # experts alone
    assert set(eight.speed()["batch"]) == together
    assert (one.speed()["batch"] == 1).all()
    generated = one.frame()[one.frame()["mode"] == "decode"]
    assert generated.groupby("selector")["tokens"].min().max() >= 1


@pytest.mark.gpu
def test_a_gpu_gives_the_rows_of_the_cpu(prompts, tmp_path):
    """Up to rounding: another machine sums in another order."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **PLAIN)).eval()
    model.save_pretrained(tmp_path / "model")
    words = ["quality", "--model", tmp_path / "model", "--prompts", prompts, "--tokens", 3]
    words += ["--budget", 4, "--dtype", "float32", "--quiet"]
    frames = []
    for device, batch in (("cpu", 1), ("cuda", 1), ("cuda", 8)):
        folder = tmp_path / f"{device}-{batch}"
        more = ["--device", device, "--batch", batch, "-o", folder]
        done = CliRunner().invoke(main, [str(word) for word in (*words, *more)])
        assert done.exit_code == 0, done.output
        frames.append(open_quality(folder).frame())
        assert (open_quality(folder).speed()["tokens_per_second"] > 0).all()
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frames[0], frame, rtol=1e-3, atol=1e-4)
