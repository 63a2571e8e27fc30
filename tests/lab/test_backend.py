"""Kernels and torch behind targets, measures and selectors: one table from both."""

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from transformers import (
    DeepseekV32Config,
    DeepseekV32ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from indexer_lab import backend
from indexer_lab.agreement import compare
from indexer_lab.cli import main
from indexer_lab.errors import InputError
from indexer_lab.measures import FACTS, MEASURES, Answer, Block, Ground
from indexer_lab.selectors import on_backend, selector
from indexer_lab.store.capture import SampleInfo, create
from indexer_lab.store.scores import open_scores
from indexer_lab.targets import TARGETS, target
from indexer_probes.records import IndexerRecord, LatentKeys, LayerRecord, MaskRule, PlainKeys

from ..interpreter import interpreting
from .conftest import make_record

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # on a CPU, Triton's interpreter
SELECTORS = {
    "llama": ("exact:kv_group", "exact:best_shared"),
    "deepseek_v32": (
        "lightning",
        *(f"lightning:precision={form}" for form in ("fp8", "fp4", "int8")),
        "native",
    ),
}


@pytest.fixture
def kernels_run():
    """Kernels can run in the body: on the GPU, or in the interpreter where there is none."""
    pytest.importorskip("triton")
    with interpreting():
        yield


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module", params=["llama", "deepseek_v32"])
def tiny(request, tmp_path_factory):
    """Its family, and the capture of a small random model that attends far from evenly."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 96, "initializer_range": 0.3}
    rope = {"rope_type": "default", "rope_theta": 1e4}
    if request.param == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2))
    else:
        model = DeepseekV32ForCausalLM(DeepseekV32Config(
            **shape, num_key_value_heads=4, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8,
            qk_nope_head_dim=8, v_head_dim=8, first_k_dense_replace=1, index_topk=8,
            index_head_dim=16, index_n_heads=8, n_routed_experts=2, rope_parameters=rope,
        ))  # fmt: skip
    model.save_pretrained(folder / "model")
    ids = torch.randint(0, 64, (60,)).tolist()
    (folder / "prompts.jsonl").write_text(json.dumps({"id": "one", "input_ids": ids}))
    words = ["--model", folder / "model", "--prompts", folder / "prompts.jsonl", "--values"]
    done = run("capture", *words, "--positions", "every:25", "-o", folder / "capture", "--quiet")
    assert done.exit_code == 0, done.output
    return request.param, folder / "capture"


def table(capture, output, chosen, *more):
    """The score table, and what run.json says of device and backend."""
    words = [word for label in chosen for word in ("--selector", label)]
    done = run("score", capture, *words, *more, "-o", output, "--quiet")
    assert done.exit_code == 0, done.output
    scores = open_scores(output)
    return scores.frame(), scores.manifest


def both(capture, folder, chosen, *more):
    """The tables of both backends."""
    tables = []
    for name in ("triton", "torch"):
        made, facts = table(capture, folder / name, chosen, *more, "--backend", name)
        assert facts.get("backend", "torch") == name
        assert facts.get("device", "cpu") == DEVICE
        tables.append(made)
    return tables


@pytest.mark.parametrize("goals", [("per_head", "head_sum"), ("kv_group", "head_max")])
def test_both_backends_give_one_table(tiny, goals, tmp_path, kernels_run):
    family, capture = tiny
    words = [word for goal in goals for word in ("--target", goal)]
    words += ["--budget", "3,8", "--device", DEVICE]
    found = compare(*both(capture, tmp_path, SELECTORS[family], *words))
    assert found["over"].max() == 0, found
    exact = open_scores(tmp_path / "triton").frame()
    assert (exact[exact.selector == "exact"].recall == 1).all()


def test_a_table_that_is_off_does_not_agree(tiny, tmp_path):
    _, capture = tiny
    made, _ = table(capture, tmp_path / "s", (), "--budget", "3")
    same = compare(made, made)
    assert same["agrees"].all()
    assert (same["largest"] == 0).all()
    wrong = made.assign(mass=made["mass"] + 2e-4, keys_90=float("nan"))
    found = compare(made, wrong).set_index("measure")
    assert not found.loc[["mass", "keys_90"], "agrees"].any()
    assert found.drop(["mass", "keys_90"])["agrees"].all()
    with pytest.raises(InputError, match="do not answer the same questions"):
        compare(made, made.iloc[1:])


def windowed():
    """Grouped-query attention under a window, with learned sinks."""
    torch.manual_seed(5)
    positions = torch.tensor([2, 17, 40, 69])
    keys = PlainKeys(torch.randn(2, 70, 12), torch.randn(2, 70, 6))
    mask = MaskRule(20, torch.tensor([0.5, 2.0, -1.0, 3.0]))
    return LayerRecord(0, torch.randn(4, 4, 12), keys, positions, 1.0, mask)


RECORDS = {
    "sinks and a window": windowed,
    "bfloat16": lambda: rounded(make_record(0, 50, 4, indexer=False), torch.bfloat16),
    "no values": lambda: without_values(make_record(2, 50, 4, indexer=False)),
}


def rounded(record, dtype):
    keys = PlainKeys(record.keys.plain_keys.to(dtype), record.keys.plain_values.to(dtype))
    return LayerRecord(1, record.queries.to(dtype), keys, record.positions, record.scale)


def without_values(record):
    keys = PlainKeys(record.keys.plain_keys)
    return LayerRecord(1, record.queries, keys, record.positions, record.scale)


@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.parametrize("name", TARGETS)
def test_every_measure_is_the_same(kind, name, kernels_run):
    """Block by block, beside a support with repeated, future and missing places."""
    record, goal, rows = RECORDS[kind]().to(torch.device(DEVICE)), target(name), slice(1, 4)
    support = selector("random").fit(record).top(5)
    support[..., 1], support[:, 1, 2], support[:, 2, 3] = support[..., 0], -1, record.length - 1
    found = {}
    for chosen in ("triton", "torch"):
        kernels = backend.kernel_record(record, chosen, 6)
        exact = None if kernels is None or goal.kernel is None else goal.kernel(kernels, 6)
        block = Block(record, rows, kernels)
        answer = Answer(Ground(block, goal, 5, exact), support[:, rows], None, 5)
        found[chosen] = {key: measure(answer) for key, measure in MEASURES.items()}
        found[chosen] |= {key: fact(block) for key, fact in FACTS.items()}
    for key, numbers in found["torch"].items():
        torch.testing.assert_close(
            found["triton"][key], numbers, rtol=1e-4, atol=1e-4, equal_nan=True, msg=key
        )


@pytest.mark.parametrize("budget", [1, 9, 55])
def test_targets_and_lightning_pick_the_same_keys(budget, kernels_run):
    record = make_record(0, 50).to(torch.device(DEVICE))
    for name in TARGETS:
        picked = [target(name).top(record, budget, chosen) for chosen in ("triton", "torch")]
        assert torch.equal(*picked), name
    for label in SELECTORS["deepseek_v32"][:4]:
        made = [on_backend(selector(label), chosen).fit(record) for chosen in ("triton", "torch")]
        assert torch.equal(made[0].top(budget), made[1].top(budget)), label
        scores = [one.scores(slice(2, 7)) for one in made]
        torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-5)


def test_a_kernel_backend_reaches_the_kernels(monkeypatch, kernels_run):
    from indexer_lab.kernel_record import KernelRecord

    called = set()

    def heard(name):
        real = getattr(KernelRecord, name)

        def method(*words):
            called.add(name)
            return real(*words)

        return method

    record = make_record(0, 50).to(torch.device(DEVICE))
    for name in ("top", "mean_top", "pick"):
        monkeypatch.setattr(KernelRecord, name, heard(name))
    for name, wanted in (("per_head", "top"), ("head_sum", "mean_top"), ("head_max", "pick")):
        called.clear()
        target(name).top(record, 4, "torch")
        assert not called
        selector(f"exact:{name}:backend=triton").fit(record).top(4)
        assert called == {wanted}


def test_a_selectors_own_backend_wins():
    assert on_backend(selector("lightning"), "torch").backend == "torch"
    assert on_backend(selector("lightning:backend=torch"), "triton").backend == "torch"
    assert on_backend(selector("random"), "triton") == selector("random")


def command(capture, output, *more):
    """`indexer-lab score` in a process of its own, without Triton's interpreter."""
    words = [sys.executable, "-m", "indexer_lab", "score", str(capture), "--budget", "4"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [*words, "-o", str(output), *more], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("words", [["--backend", "triton"],
                                   ["--selector", "lightning:backend=triton"]])  # fmt: skip
def test_forcing_kernels_on_a_cpu_is_refused(capture_folder, tmp_path, words):
    done = command(capture_folder, tmp_path / "s", *words)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "backend = 'triton' cannot run on cpu: it needs CUDA tensors" in done.stderr
    assert "--device cuda" in done.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "cuda:77"], "--device 'cuda:77' cannot be used ("),
        (["--device", "gpu"], "--device 'gpu': expected cpu, cuda, cuda:N or auto"),
        (["--device", "meta"], "--device 'meta': expected cpu"),
        (["--backend", "cuda"], "'cuda' is not one of 'auto', 'triton', 'torch'"),
    ],
)
def test_a_wrong_device_or_backend_is_one_line(capture_folder, tmp_path, words, said):
    done = run("score", capture_folder, "--budget", "4", "-o", tmp_path / "s", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_a_cpu_run_loads_no_kernel_and_names_no_backend(capture_folder, tmp_path):
    program = (
        "import sys; from click.testing import CliRunner; from indexer_lab.cli import main;"
        "r = CliRunner().invoke(main, sys.argv[1:]); assert r.exit_code == 0, r.output;"
        "print([name for name in sys.modules if name in ('indexer_kernels.backend',"
        " 'indexer_lab.kernel_record')])"
    )
    words = ["score", str(capture_folder), "--budget", "4", "--selector", "lightning"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "-o", str(tmp_path / "s"), "--quiet"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr
    assert not {"device", "backend"} & set(open_scores(tmp_path / "s").manifest)


def test_what_no_kernel_covers_stays_with_torch_unless_forced():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert backend.too_many(8192, 100_000) is None
    assert backend.too_many(9000, 5000) is None  # no row has more than 5000 keys to pick
    obstacle = backend.too_many(8193, 100_000)
    assert not backend.use_kernels("auto", cuda, obstacle)
    assert not backend.use_kernels("torch", cuda, obstacle)
    with pytest.raises(InputError, match="8193 keys a query are over the 8192"):
        backend.use_kernels("triton", cpu, obstacle)
    with pytest.raises(InputError, match="did you mean 'triton'"):
        backend.use_kernels("tritn", cpu)


def test_index_vectors_that_overflow_a_tile_are_refused_when_forced(kernels_run):
    torch.manual_seed(6)
    wide = IndexerRecord(
        torch.randn(2, 3, 128), torch.randn(9, 128), torch.rand(3, 2), 1.0, torch.zeros(1, 3, 1)
    )
    keys = PlainKeys(torch.randn(1, 9, 16))
    record = LayerRecord(0, torch.randn(1, 3, 16), keys, torch.arange(6, 9), 1.0, indexer=wide)
    record = record.to(torch.device(DEVICE))
    with pytest.raises(InputError, match="128 x 4 bytes are over the 256"):
        selector("lightning:backend=triton").fit(record)
    automatic = selector("lightning").fit(record).top(4)
    assert torch.equal(automatic, selector("lightning:backend=torch").fit(record).top(4))
    fp8 = selector("lightning:precision=fp8,backend=triton").fit(record).top(4)
    assert torch.equal(fp8, selector("lightning:precision=fp8,backend=torch").fit(record).top(4))


def large(kind, draw):
    """A bfloat16 record of a common size: grouped-query, or latent with a 64-head indexer."""
    rows, length = 96, 5000
    positions = torch.arange(length - rows, length)

    def normal(*shape, size=1.0):
        return (torch.randn(*shape, generator=draw) * size).bfloat16()

    if kind == "llama":
        keys = PlainKeys(normal(2, length, 128), normal(2, length, 128))
        return LayerRecord(0, normal(8, rows, 128), keys, positions, 0.2)
    keys = LatentKeys(
        normal(length, 512), normal(length, 64), normal(8, 128, 512, size=0.05),
        normal(8, 128, 512, size=0.05),
    )  # fmt: skip
    weights = torch.rand(rows, 64, generator=draw)
    native = torch.zeros(1, rows, 8, dtype=torch.int64)
    index = IndexerRecord(normal(64, rows, 128), normal(length, 128), weights, 0.1, native)
    return LayerRecord(0, normal(8, rows, 192), keys, positions, 0.1, indexer=index)


@pytest.mark.gpu
def test_a_record_moves_whole():
    for record in (make_record(0, 40), windowed()):
        moved = record.to(torch.device("cuda:0"))
        for (name, here), (_, there) in zip(record.tensors(), moved.tensors(), strict=True):
            assert there.device == torch.device("cuda:0"), name
            assert torch.equal(here, there.cpu()), name
        assert moved.to(torch.device("cuda:0")) is moved


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["llama", "deepseek_v32"])
def test_both_backends_give_one_table_at_size(kind, tmp_path):
    facts = {"model": "made-up", "layers": [0], "model_type": kind}
    sample = SampleInfo("one", "noise", 5000)
    capture = create(tmp_path / "capture", facts, [sample])
    capture.save(sample, large(kind, torch.Generator().manual_seed(7)))
    chosen = ("exact:best_shared", "quantised") if kind == "llama" else SELECTORS[kind][:4]
    words = [word for name in TARGETS for word in ("--target", name)]
    words += ["--budget", "64,1024", "--device", "cuda"]
    found = compare(*both(capture.path, tmp_path, chosen, *words))
    assert found["agrees"].all(), found.to_string()


@pytest.mark.gpu
def test_a_gpu_takes_kernels_by_itself_and_agrees_with_the_cpu(tiny, tmp_path):
    family, capture = tiny
    words = ["--budget", "3,8", "--target", "per_head", "--target", "head_sum"]
    on_gpu, facts = table(capture, tmp_path / "gpu", SELECTORS[family], *words, "--device", "auto")
    assert (facts["device"], facts["backend"]) == ("cuda", "triton")
    on_cpu, _ = table(capture, tmp_path / "cpu", SELECTORS[family], *words)
    found = compare(on_gpu, on_cpu)
    assert found["agrees"].all(), found.to_string()
