"""What can go wrong with published tasks is one sentence, and nothing is fetched unasked."""

import importlib.util
import socket

import pytest
import yaml
from click.testing import CliRunner

from indexer_lab.cli import main
from indexer_lab.published.offline import offline

from .conftest import write_jsonl


def run(model, output, *words):
    given = ["quality", "--model", model, "--budget", 4, "-o", output / "q", *words]
    return CliRunner().invoke(main, [str(word) for word in given])


def told(done):
    """The one line of a refusal."""
    assert done.exit_code == 2, (done.output, done.exception)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def write_task(folder, name, **config):
    base = {
        "task": name, "output_type": "generate_until", "test_split": "test",
        "doc_to_text": "{{question}}", "doc_to_target": "x",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**base, **config}))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--task", "helmt:json_kv"], "unknown suite of tasks 'helmt': did you mean 'helmet'?"),
        (["--task", "helmet:json_vk"], "unknown HELMET task 'json_vk': did you mean 'json_kv'?"),
        (["--task", "helmet:icl_trec_fine"], "'icl_trec_fine' is not supported: HELMET's data"),
        (["--task", "helmet:multi_lexsum"], "is not supported"),
        (["--task", "helmet:json_kv"], "needs --data FOLDER, unpacked from https://huggingface.co"),
        (["--task", "helmet:json_kv", "--task", "multi_key"], "are different runs"),
        (["--task", "multi_key", "--data", "x"], "--data is for --task helmet:NAME"),
        (["--task", "multi_key", "--allow-download"], "--allow-download is for --task lm-eval:"),
        (["--task", "multi_key", "--chat-template"], "--chat-template is for published tasks"),
        (["--task", "lm-eval:x", "--include-path", "no/where"], "no such folder; expected one of"),
        (["--task", "lm-eval:x", "--metadata", "a"], "--metadata 'a': expected key=value"),
        (["--task", "helmet:json_kv", "--mode", "repaly"], "did you mean 'replay'?"),
        (["--task", "helmet:json_kv", "--limit", "0"], "--limit 0: expected 1 or more"),
    ],
)
def test_wrong_words(model_folder, tmp_path, words, complaint):
    assert complaint in told(run(model_folder, tmp_path, *words))


def test_helmets_folder(model_folder, tmp_path):
    asked = ["--task", "helmet:json_kv", "--length", "8192"]
    missing = told(run(model_folder, tmp_path, *asked, "--data", tmp_path / "none"))
    assert "none: no such folder; expected HELMET's data folder, unpacked from" in missing
    empty = told(run(model_folder, tmp_path, *asked, "--data", tmp_path))
    assert "test_k105_dep6.jsonl does not exist; --data must name the folder" in empty
    length = told(run(model_folder, tmp_path, "--task", "helmet:json_kv", "--data", tmp_path))
    assert "--length 2048: HELMET is published at 8192, 16384" in length
    path = tmp_path / "json_kv" / "test_k105_dep6.jsonl"
    row = {"context": "word " * 250, "question": "q", "demos": []}
    write_jsonl(path, [row])
    strange = told(run(model_folder, tmp_path, *asked, "--data", tmp_path))
    assert "is not in HELMET's format for json_kv (KeyError: 'answer')" in strange
    path.write_text("[1\n")
    assert "line 1: expected a JSON object" in told(
        run(model_folder, tmp_path, *asked, "--data", tmp_path)
    )
    write_jsonl(path, [{**row, "answer": "a"}])
    long = told(run(model_folder, tmp_path, *asked, "--data", tmp_path))
    assert "100 to generate, and the model takes 1024" in long


def test_lm_eval_is_not_installed(model_folder, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "lm_eval" else real(name)
    )
    done = run(model_folder, tmp_path, "--task", "lm-eval:hellaswag")
    assert "pip install 'lm-eval[longbench,ruler]>=0.4.13,<0.5'" in told(done)


def test_an_unknown_task_is_offered_its_nearest(model_folder, tmp_path):
    long = ["ruler", "longbench", "longbench2", "babilong", "infinitebench"]
    words = [word for name in [*long, "lonbench2"] for word in ("--task", f"lm-eval:{name}")]
    said = told(run(model_folder, tmp_path, *words))
    assert "unknown lm-eval task 'lonbench2': did you mean 'longbench2'?" in said


@pytest.mark.parametrize("allowed", [False, True])
def test_data_that_is_not_here(model_folder, tmp_path, monkeypatch, allowed):
    def unplugged(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unplugged)
    write_task(tmp_path, "absent", dataset_path="nobody/no-such-data-set-anywhere")
    words = ["--task", "lm-eval:absent", "--include-path", tmp_path]
    said = told(run(model_folder, tmp_path, *words, *["--allow-download"] * allowed))
    assert "lm-eval task 'absent' needs data that is not on this machine" in said
    assert ("could not be fetched" if allowed else "add --allow-download") in said
    assert "--include-path" in said


def test_a_task_that_fetches_by_itself_is_kept_from_it(model_folder, tmp_path):
    (tmp_path / "fetch.py").write_text(
        "import urllib.request\n"
        "def rows(**given):\n"
        "    urllib.request.urlopen('http://127.0.0.1:9/rows')\n"
    )
    text = "task: fetches\noutput_type: generate_until\ntest_split: test\n"
    text += "dataset_path: ''\ncustom_dataset: !function fetch.rows\ndoc_to_text: a\n"
    (tmp_path / "fetches.yaml").write_text(text + "doc_to_target: b\n")
    done = run(model_folder, tmp_path, "--task", "lm-eval:fetches", "--include-path", tmp_path)
    assert "nothing is downloaded unasked: add --allow-download" in told(done)


def test_a_broken_task(model_folder, tmp_path):
    files = {"data_files": {"test": str(tmp_path / "none.jsonl")}}
    write_task(tmp_path, "broken", dataset_path="json", dataset_kwargs=files)
    done = run(model_folder, tmp_path, "--task", "lm-eval:broken", "--include-path", tmp_path)
    said = told(done)
    assert "lm-eval task 'broken' cannot be loaded: FileNotFoundError" in said
    assert "none.jsonl" in said


def test_the_guard_opens_again():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with offline():
            with pytest.raises(ConnectionError, match="unasked"):
                socket.create_connection(address, timeout=1)
            with socket.socket() as plain, pytest.raises(ConnectionError, match="unasked"):
                plain.connect(address)
        socket.create_connection(address, timeout=1).close()
        with offline(False):
            socket.create_connection(address, timeout=1).close()
    assert "connect" not in vars(socket.socket)
