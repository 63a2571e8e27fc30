"""Each bug against a slow literal reading of what it does to the index score or to its ranking."""

from __future__ import annotations

import cmath

import pytest
import torch
from transformers.models.deepseek_v32 import modeling_deepseek_v32 as deepseek

from indexer_kernels.quantize import e4m3, hadamard
from indexer_lab.errors import InputError
from indexer_lab.quality.trial import Trial
from indexer_lab.scoring import Question, score_record
from indexer_lab.selectors import selector
from indexer_lab.selectors.faulty_operands import interleaved, with_pairs_swapped
from indexer_lab.selectors.following import follower
from indexer_lab.store import records
from indexer_lab.store.capture import SampleInfo
from indexer_probes.capture import capture
from indexer_probes.records import IndexerRecord, LayerRecord, PlainKeys
from indexer_probes.steering import steer

from ..probes.conftest import build_model

KEYS, ROWS, HEADS, DIM = 18, 6, 2, 8
TURNS = torch.tensor([1.0, 0.1, 0.01])  # of 6 of the 8 dimensions


def record(layer=1, seed=0, turns=TURNS, first=KEYS - ROWS, layers=None):
    draw = torch.Generator().manual_seed(seed)
    positions = torch.arange(first, first + ROWS)
    indexer = IndexerRecord(
        queries=torch.randn(HEADS, ROWS, DIM, generator=draw),
        keys=torch.randn(KEYS, DIM, generator=draw),
        weights=torch.randn(ROWS, HEADS, generator=draw),
        scale=0.5,
        native=torch.zeros(1, ROWS, 3, dtype=torch.int64),
        turns=turns,
    )
    return LayerRecord(
        layer,
        torch.randn(2, ROWS, 6, generator=draw),
        PlainKeys(torch.randn(2, KEYS, 6, generator=draw)),
        positions,
        0.4,
        indexer=indexer,
        layers=layers,
    )


def literal_scores(given, queries=None, keys=None, weights=None, relu=True):
    """sum_j w_j ReLU(scale q_j . k), one number at a time."""
    indexer = given.indexer
    queries = indexer.queries if queries is None else queries
    keys = indexer.keys if keys is None else keys
    weights = indexer.weights if weights is None else weights
    scores = torch.zeros(given.rows, given.length)
    for row in range(given.rows):
        for key in range(given.length):
            for head in range(len(queries)):
                product = float(queries[head, row] @ keys[key]) * indexer.scale
                gate = max(product, 0.0) if relu else product
                scores[row, key] += float(weights[row, head]) * gate
    return scores


def best(scores, position, budget, first=0):
    """Positions of the largest visible scores, the lowest first among equals."""
    order = sorted(range(first, position + 1), key=lambda key: (-float(scores[key]), key))
    return order[:budget]


def agrees(given, spelled, scores, budget=5):
    fitted = selector(spelled).fit(given)
    found = fitted.scores(slice(None))[0]
    visible = given.visible(slice(None))
    assert torch.allclose(found[visible], scores[visible], atol=1e-5)
    for row, position in enumerate(given.positions.tolist()):
        picked = fitted.top(budget)[0, row].tolist()
        assert picked == best(found[row], position, budget)


def test_relu_left_out():
    agrees(record(), "faulty:relu", literal_scores(record(), relu=False))
    linear = record()
    object.__setattr__(linear.indexer, "activation", "none")
    with pytest.raises(InputError, match="no ReLU to leave out"):
        selector("faulty:relu").fit(linear)


def test_head_weights_in_low_precision():
    given = record()
    narrow = given.indexer.weights.to(torch.bfloat16).float()
    agrees(given, "faulty:weights", literal_scores(given, weights=narrow))
    narrower = given.indexer.weights.to(torch.float8_e4m3fn).float()
    agrees(given, "faulty:weights:form=fp8", literal_scores(given, weights=narrower))


def test_scores_zeroed_pick_the_lowest_positions():
    agrees(record(), "faulty:zero", torch.zeros(ROWS, KEYS))
    assert selector("faulty:zero").fit(record()).top(4)[0].tolist() == [[0, 1, 2, 3]] * ROWS


def test_key_scales_dropped():
    given = record()
    queries, keys = (e4m3(hadamard(each)) for each in (given.indexer.queries, given.indexer.keys))
    scores = literal_scores(given, queries=queries.dequantise(), keys=keys.codes.float())
    agrees(given, "faulty:scale", scores)
    assert (keys.scales != keys.scales[0]).any()  # else dropping them would change no order


def turned(vector, position, pairs, sign):
    """The vector with each pair turned by its angle; pairs name two places each."""
    result = vector.clone()
    for number, (one, other) in enumerate(pairs):
        angle = sign * position * float(TURNS[number])
        value = complex(vector[one], vector[other]) * cmath.exp(1j * angle)
        result[one], result[other] = value.real, value.imag
    return result


def test_rope_is_turned_back_by_halves_and_on_by_neighbours():
    given = record()
    halves, neighbours = [(0, 3), (1, 4), (2, 5)], [(0, 1), (2, 3), (4, 5)]

    def broken(vector, position):
        return turned(turned(vector, position, halves, -1), position, neighbours, 1)

    keys = torch.stack([broken(key, at) for at, key in enumerate(given.indexer.keys)])
    queries = torch.stack(
        [
            torch.stack([broken(q, at) for q, at in zip(head, given.positions.tolist())])  # noqa: B905
            for head in given.indexer.queries
        ]
    )
    agrees(given, "faulty:rope", literal_scores(given, queries=queries, keys=keys))


def test_rope_settings_stand_in_for_turns():
    given, known = record(turns=None), record(turns=1.0 / 100.0 ** torch.tensor([0, 1 / 3, 2 / 3]))
    asked = selector("faulty:rope:rope_dim=6,theta=100").fit(given).scores(slice(None))
    assert torch.allclose(asked, selector("faulty:rope").fit(known).scores(slice(None)), atol=1e-5)
    with pytest.raises(InputError, match="give rope_dim and theta"):
        selector("faulty:rope").fit(given)
    with pytest.raises(InputError, match="rope_dim = 7; expected an even number up to the 8"):
        selector("faulty:rope:rope_dim=7,theta=100").fit(given)


def test_one_pair_has_one_layout():
    states = torch.randn(2, 5, 4)
    swapped = with_pairs_swapped(states, torch.arange(5), torch.tensor([0.7]))
    assert torch.allclose(swapped, states, atol=1e-6)


@pytest.fixture(scope="module")
def captured():
    """Records of a small DeepSeek-V3.2, and what its indexers made before they turned it."""
    model, plain, kept = build_model("deepseek_v32").eval(), {}, []
    hooks = []
    for layer in model.model.layers:
        indexer = layer.self_attn.indexer
        for name in ("wq_b", "k_norm"):

            def hook(module, args, output, place=(layer.self_attn.layer_idx, name)):
                plain[place] = output.detach()

            hooks.append(getattr(indexer, name).register_forward_hook(hook))
    ids = torch.randint(0, 64, (1, 41), generator=torch.Generator().manual_seed(4))
    with torch.no_grad(), capture(model, kept.append):
        model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return model, kept, plain


def evens_first(states, width):
    """The order in which transformers' interleaved function leaves what it turned."""
    return torch.cat([states[..., 0:width:2], states[..., 1:width:2]], dim=-1)


def test_rope_is_what_the_models_own_interleaved_function_gives(captured):
    model, kept, plain = captured
    for given in kept:
        heads, dim = given.indexer.queries.shape[0], given.indexer.queries.shape[-1]
        queries = plain[given.layer, "wq_b"].view(1, 41, heads, dim)
        keys = plain[given.layer, "k_norm"].view(1, 41, 1, dim)
        cosines, sines = model.model.rotary_emb(queries, torch.arange(41)[None])
        width = cosines.shape[-1]
        turn = deepseek.apply_rotary_pos_emb_interleave
        q, k = turn(queries[..., :width], keys[..., :width], cosines, sines, unsqueeze_dim=2)
        broken = interleaved(given, given.indexer, None, None)
        assert torch.allclose(evens_first(broken.queries, width), q[0].transpose(0, 1), atol=1e-4)
        assert torch.allclose(evens_first(broken.keys, width), k[0, :, 0], atol=1e-4)
        assert torch.equal(broken.keys[..., width:], given.indexer.keys[..., width:])


def test_turns_are_kept_on_disk(captured, tmp_path):
    given = captured[1][0]
    records.save(given, tmp_path / "sample.safetensors", tmp_path / "layer.safetensors")
    loaded = records.load(tmp_path / "sample.safetensors", tmp_path / "layer.safetensors")
    assert torch.equal(loaded.indexer.turns, given.indexer.turns)


def test_the_layer_before_selects():
    before = record(layer=1, seed=1)
    given = record(layer=2, seed=2, layers={1: before}.__getitem__)
    scores = before.indexer.scores(slice(None))
    rows = [best(scores[row], at, 5) for row, at in enumerate(given.positions.tolist())]
    assert selector("faulty:layer").fit(given).top(5).tolist() == [rows]
    first = record(layer=0)  # nothing is before it
    sound = selector("lightning").fit(first).top(5)
    assert torch.equal(selector("faulty:layer").fit(first).top(5), sound)
    with pytest.raises(InputError, match="layer 1 selects by the layer before it"):
        selector("faulty:layer").fit(before)


def test_the_layer_before_selects_in_the_score_table_too():
    before = record(layer=1, seed=1)
    given = record(layer=2, seed=2, layers={1: before}.__getitem__)
    question = Question(("faulty:layer", "lightning"), (5,), ("per_head",))
    table = score_record(given, SampleInfo("s", "t", KEYS), question)
    recalls = table.to_pandas().groupby("selector", observed=True)["recall"].mean()
    assert recalls["faulty:layer"] != recalls["lightning"]


def test_the_layer_before_selects_live():
    one = follower(selector("faulty:layer"))
    first, second = record(layer=0, seed=1), record(layer=1, seed=2)
    assert torch.equal(one.fit(first).top(4), selector("lightning").fit(first).top(4))
    assert torch.equal(one.fit(second).top(4), selector("lightning").fit(first).top(4))
    with pytest.raises(InputError, match="layer 2 did not select in this forward"):
        one.fit(record(layer=3))


def test_a_swapped_layer_needs_the_one_before_it_too():
    assert set(Trial("replay", "faulty:layer", 4, layer=2).layers) == {1, 2}
    assert Trial("replay", "faulty:layer", 4, layer=0).layers == (0,)
    assert Trial("replay", "faulty:relu", 4, layer=2).layers == (2,)


def tied():
    """Scores whose heads are mostly below zero: many keys tie at 0."""
    given = record()
    given.indexer.keys[4:12] = -given.indexer.queries.sum(0)[0]
    return given


@pytest.mark.parametrize("given", [record(), tied()], ids=["random", "tied"])
@pytest.mark.parametrize("budget", [1, 3, 6, 17, 30])
def test_ties_that_overflow_become_minus_one(given, budget):
    picked = selector("faulty:overflow").fit(given).top(budget)[0]
    scores = given.indexer.scores(slice(None)).to(torch.bfloat16).float()
    overflows = 0
    for row, position in enumerate(given.positions.tolist()):
        own = scores[row, : position + 1].tolist()
        order = best(own, position, budget)
        kept = order
        if len(own) > budget:
            boundary = own[order[-1]]
            if own.count(boundary) > sum(own[key] == boundary for key in order):
                kept = [key for key in order if own[key] > boundary]
                overflows += 1
        assert [at for at in picked[row].tolist() if at != -1] == kept
    if budget == 6 and given.indexer.keys[4].equal(given.indexer.keys[5]):
        assert overflows


@pytest.mark.parametrize("first", [0, KEYS - ROWS])
def test_off_by_one_masks(first):
    given = record(first=first)
    scores = given.indexer.scores(slice(None))
    later, without = (selector(f"faulty:{bug}").fit(given).top(5)[0] for bug in ("future", "self"))
    for row, position in enumerate(given.positions.tolist()):
        shown = min(position + 1, KEYS - 1)
        kept = [at for at in later[row].tolist() if at != -1]
        assert kept == best(scores[row], shown, 5)
        kept = [at for at in without[row].tolist() if at != -1]
        assert kept == best(scores[row], position - 1, 5)


def test_a_key_of_the_future_is_counted_and_worth_nothing():
    question = Question(("faulty:future", "faulty:self"), (5,), ("per_head",))
    given = record(first=4)
    table = score_record(given, SampleInfo("s", "t", KEYS), question).to_pandas()
    future = table[table.selector == "faulty:future"]
    expected = selector("faulty:future").fit(given).top(5)[0]
    ahead = [position + 1 in row for position, row in zip(range(4, 10), expected.tolist())]  # noqa: B905
    assert sum(ahead) > 0
    assert future[future["head"] == 0].future.tolist() == [float(each) for each in ahead]


@pytest.mark.parametrize("bug", ["rope", "relu", "zero", "layer", "scale", "overflow", "self"])
def test_every_bug_steers_a_live_model(captured, bug):
    model, _, _ = captured
    ids = torch.randint(0, 64, (1, 41), generator=torch.Generator().manual_seed(4))
    one = follower(selector(f"faulty:{bug}"))
    with torch.no_grad():
        with steer(model, lambda record: selector("lightning").fit(record).top(5)):
            sound = model(input_ids=ids, use_cache=False).logits
        with steer(model, lambda record: one.fit(record).top(5)):
            broken = model(input_ids=ids, use_cache=False).logits
    assert broken.isfinite().all()
    assert not torch.allclose(sound, broken, atol=1e-3)


def test_an_unknown_bug_is_one_line():
    with pytest.raises(InputError, match="expected one of rope, relu"):
        selector("faulty:bug=hadamard")
