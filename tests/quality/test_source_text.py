"""Bits per byte of unseen text, forced under every attention."""

import math

import pytest
import torch
import torch.nn.functional as F

from indexer_lab.capturing import Limits, encode
from indexer_lab.cli.steps import built_in
from indexer_lab.quality.divergence import divergence
from indexer_lab.quality.running import measure
from indexer_lab.quality.subject import Subject
from indexer_lab.quality.trial import Protocol
from indexer_lab.reference import resolve
from indexer_lab.tasks import source_text
from indexer_probes.loading import load_model, load_tokenizer
from indexer_probes.steering import steer


def test_bits_per_byte_by_hand():
    logs = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]).log()
    found = divergence([0, 1], logs, logs, encoded_bytes=8)
    assert found["bits_per_byte"] == pytest.approx((1 + 3) / 8)
    assert found["nll"] == pytest.approx(2 * math.log(2))
    assert found["kl"] == 0
    assert math.isnan(divergence([0, 1], logs, logs)["bits_per_byte"])


@pytest.fixture(scope="module")
def prompts():
    tokenizer = load_tokenizer(resolve("needle-dsa"))
    return built_in(("source_text",), tokenizer, 96, 2, 0), tokenizer


def test_the_bytes_are_those_of_the_predicted_tokens(prompts):
    asked, tokenizer = prompts
    for prompt, encoded in zip(asked, encode(asked, tokenizer, Limits(2048, 2048)), strict=True):
        tail = tokenizer.decode(encoded.ids[encoded.given :])
        assert prompt.text.endswith(tail)
        assert encoded.bytes == len(tail.encode())
        assert encoded.predicted == len(encoded.ids) // 2 <= source_text.PREDICTED


def test_every_mode_forces_the_text_and_dense_is_the_plain_model(prompts):
    asked, tokenizer = prompts
    encoded = encode(asked, tokenizer, Limits(2048, 2048))[0]
    model = load_model(resolve("needle-dsa"), dtype="float32")
    subject = Subject(model, tokenizer, encoded)
    measure([subject], Protocol(("replay", "decode", "prefill+decode"), (), (4,), (), 3))
    rows = {(row["mode"], row["selector"]): row for row in subject.rows}
    with steer(model, [], layers=()), torch.inference_mode():
        logits = model(input_ids=encoded.ids[None], use_cache=False).logits[0]
    start = encoded.given - 1
    nats = F.cross_entropy(logits[start:-1], encoded.ids[encoded.given :], reduction="sum")
    bits = float(nats) / math.log(2) / encoded.bytes
    for mode in ("replay", "decode", "prefill+decode"):
        assert rows[mode, "dense"]["bits_per_byte"] == pytest.approx(bits, rel=1e-4)
        assert rows[mode, "random"]["bits_per_byte"] > bits
        assert rows[mode, "exact"]["tokens"] == encoded.predicted
    forced = ("nll", "kl", "bits_per_byte")
    assert all(rows["replay", "exact"][k] == rows["decode", "exact"][k] for k in forced)
    assert rows["replay", "exact"]["kl"] != rows["prefill+decode", "exact"]["kl"]
