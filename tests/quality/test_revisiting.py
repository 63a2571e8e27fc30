"""RetroAttention in the loop, held against a slow literal run of it written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from indexer_lab.capturing import Encoded
from indexer_lab.errors import InputError
from indexer_lab.quality.forward import Clock, generate, prefill, replay, shorten
from indexer_lab.quality.revisiting import Revisiting
from indexer_lab.quality.running import measure
from indexer_lab.quality.subject import Subject
from indexer_lab.quality.trial import Protocol, Trial
from indexer_lab.selectors import selector
from indexer_lab.selectors.following import follower
from indexer_lab.store.capture import SampleInfo
from indexer_probes.steering import steer

from .test_quality_command import small_model

PAGE, BUDGET, PROMPT, STEPS = 4, 8, 22, 7


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def ids():
    draw = torch.Generator().manual_seed(2)
    return torch.randint(3, 64, (PROMPT + STEPS,), generator=draw)


def load(query, keys):
    """Positions of the pages that one head's query loads: literal page scores, two whole pages."""
    pages = [range(at, min(at + PAGE, len(keys))) for at in range(0, len(keys), PAGE)]
    scores = []
    for page in pages:
        low, high = keys[list(page)].amin(0), keys[list(page)].amax(0)
        scores.append(float(torch.maximum(query * low, query * high).sum()))
    order = sorted(range(len(pages)), key=lambda page: (-scores[page], page))
    return [at for page in order for at in pages[page]][:BUDGET]


def partial(query, keys, values, places):
    """Numerator and denominator of a softmax over some places, both over exp(0)."""
    weights = (keys[places] @ query / math.sqrt(len(query))).exp()
    return weights @ values[places], weights.sum()


class Literal:
    """One sequence, one step at a time, every head and row for itself."""

    def __init__(self, model, cache, window):
        self.model, self.window, self.fed = model.model, window, []
        self.head = model.lm_head
        self.keys = [layer.keys[0].clone() for layer in cache.layers]
        self.values = [layer.values[0].clone() for layer in cache.layers]
        self.start = self.keys[0].shape[1]
        self.kept = {}  # (layer, head, position): numerator, denominator, places seen

    def step(self, token):
        self.fed.append(int(token))
        rows = list(range(max(0, len(self.fed) - self.window), len(self.fed)))
        positions = torch.tensor([self.start + row for row in rows])
        hidden = self.model.embed_tokens(torch.tensor([self.fed[row] for row in rows]))[None]
        turn = self.model.rotary_emb(hidden, positions[None])
        for number, layer in enumerate(self.model.layers):
            normed = layer.input_layernorm(hidden)
            mixed = self.attention(number, layer.self_attn, normed, turn, positions.tolist())
            hidden = hidden + layer.self_attn.o_proj(mixed)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.head(self.model.norm(hidden))[0, -1]

    def attention(self, number, attention, normed, turn, positions):
        def split(projection):
            return projection(normed).view(1, len(positions), -1, 8).transpose(1, 2)

        queries, keys = apply_rotary_pos_emb(
            split(attention.q_proj), split(attention.k_proj), *turn
        )
        first = positions[0]
        for name, new in (("keys", keys[0]), ("values", split(attention.v_proj)[0])):
            held = getattr(self, name)
            held[number] = torch.cat([held[number][:, :first], new], dim=1)
        output = torch.zeros(1, len(positions), 4, 8)
        for head in range(4):
            now, values = self.keys[number][head // 2], self.values[number][head // 2]
            loaded = load(queries[0, head, -1], now)
            for row, position in enumerate(positions):
                top, bottom, seen = self.kept.get((number, head, position), (0.0, 0.0, set()))
                new = [at for at in loaded if at <= position and at not in seen]
                if new:
                    more = partial(queries[0, head, row], now, values, new)
                    top, bottom = top + more[0], bottom + more[1]
                self.kept[number, head, position] = top, bottom, seen | set(new)
                output[0, row, head] = top / bottom
        return output.flatten(2)


@pytest.mark.parametrize("window", [1, 2, 4])
def test_live_is_the_literal_run(model, ids, window):
    prompt, forced = ids[:PROMPT], ids[PROMPT:].tolist()
    cache = prefill(model, prompt)
    one = follower(selector(f"retro:page={PAGE},window={window}"))
    with steer(model, Trial("replay", "retro", BUDGET).choose(one), attend=[one.attend]):
        clock = Clock(model.device)
        found = Revisiting(window).replay(model, prompt, cache, forced, clock)
    with torch.no_grad():
        literal = Literal(model, cache, window)
        given = [int(prompt[-1]), *forced[:-1]]
        expected = torch.stack([literal.step(token) for token in given]).log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)
    assert cache.get_seq_length() == PROMPT - 1


def test_corrections_change_what_later_steps_say(model, ids):
    prompt, forced = ids[:PROMPT], ids[PROMPT:].tolist()
    cache, logs = prefill(model, prompt), []
    for window in (1, 3):
        one = follower(selector(f"retro:page={PAGE},window={window}"))
        with steer(model, Trial("replay", "retro", BUDGET).choose(one), attend=[one.attend]):
            clock = Clock(model.device)
            logs.append(Revisiting(window).replay(model, prompt, cache, forced, clock))
    assert torch.equal(logs[0][0], logs[1][0])  # nothing is past at the first step
    assert not torch.allclose(logs[0][-1], logs[1][-1], atol=1e-3)


def subject(model, ids):
    encoded = Encoded(ids[:PROMPT], SampleInfo("s", "noise", PROMPT))
    return Subject(model, None, encoded)


def rows(model, ids, spelled, budget, mode):
    one = subject(model, ids)
    measure([one], Protocol((mode,), (spelled,), (budget,), (), 5))
    return next(row for row in one.rows if row["selector"] == spelled)


def test_every_key_is_the_dense_model(model, ids):
    row = rows(model, ids, "retro:page=4,window=3", PROMPT + 5, "replay")
    assert abs(row["kl"]) < 1e-6
    assert row["agreement"] == 1


@pytest.mark.parametrize("mode", ["replay", "decode", "prefill+decode"])
def test_every_mode_runs(model, ids, mode):
    row = rows(model, ids, "retro:page=4,window=3", BUDGET, mode)
    assert row["tokens"] == 5


def test_greedy_tokens_are_those_of_its_own_replay(model, ids):
    prompt = ids[:PROMPT]
    cache, clock, spelled = prefill(model, prompt), Clock(model.device), "retro:page=4,window=3"

    def opened():
        one = follower(selector(spelled))
        return steer(model, Trial("decode", spelled, BUDGET).choose(one), attend=[one.attend])

    with opened():
        made = Revisiting(3).generate(model, prompt, cache, STEPS, lambda made: False, clock)
    with opened():
        logs = Revisiting(3).replay(model, prompt, cache, made, clock)
    assert logs.argmax(-1).tolist() == made
    assert len(made) == STEPS


def test_a_dense_model_that_revisits_is_a_dense_model(model, ids):
    prompt, clock = ids[:PROMPT], Clock(model.device)
    cache = prefill(model, prompt)
    with steer(model, [], layers=()):
        plain = generate(model, [cache], [int(prompt[-1])], 5, [lambda made: False], clock)[0]
        again = Revisiting(3).generate(model, prompt, cache, 5, lambda made: False, clock)
        forced = Revisiting(3).replay(model, prompt, cache, plain, clock)
        whole = replay(model, cache, int(prompt[-1]), plain, clock)
    assert again == plain
    torch.testing.assert_close(forced, whole, atol=1e-4, rtol=1e-4)


def test_a_shortened_cache_leaves_its_origin(model, ids):
    cache = prefill(model, ids[:PROMPT])
    held = DynamicCache()
    held.layers = list(cache.layers)
    whole = cache.layers[0].keys
    shorten(cache, 5)
    assert cache.get_seq_length() == 5
    assert whole.shape[2] == PROMPT - 1


def test_steps_that_were_left_out_are_refused(model, ids):
    prompt = ids[:PROMPT]
    one = follower(selector("retro:window=3"))
    with (
        pytest.raises(InputError, match=r"come again.*step by step"),
        steer(model, Trial("decode", "retro", 4).choose(one), attend=[one.attend]),
    ):
        replay(model, prefill(model, prompt), int(prompt[-1]), [5, 6, 7], Clock(model.device))


def test_who_decodes_by_itself_is_told_that_this_selector_does_too():
    with pytest.raises(InputError, match=r"'retro:window=3' decodes in its own way"):
        Trial("decode", "retro:window=3", 4).choose()
