"""SpecAttn in the loop against a literal run: no cache, eager attention, sets of positions."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from indexer_lab.capturing import Encoded
from indexer_lab.errors import InputError
from indexer_lab.positions import parse
from indexer_lab.quality.entropies import Entropies
from indexer_lab.quality.forward import Clock, generate_alone, prefill
from indexer_lab.quality.running import measure
from indexer_lab.quality.speculating import Speculating
from indexer_lab.quality.subject import Subject
from indexer_lab.quality.trial import Protocol, Trial
from indexer_lab.selectors import selector
from indexer_lab.selectors.following import follower
from indexer_lab.store.capture import SampleInfo
from indexer_probes.steering import steer

from ..selectors.test_layer_map import literal_nucleus

PROMPT, STEPS, GAMMA, P, DENSE, MAP = 22, 9, 3, 0.8, 1, (0, 0, 1)
EVERY = 64


def model_of(layers, seed):
    torch.manual_seed(seed)
    shape = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.3}
    config = LlamaConfig(**shape, num_key_value_heads=2, num_hidden_layers=layers)
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module")
def model():
    return model_of(3, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The draft and its layer map."""
    path = tmp_path_factory.mktemp("draft")
    model_of(2, seed=1).save_pretrained(path)
    (path / "map.json").write_text(json.dumps(MAP))
    return path


@pytest.fixture(scope="module")
def prompt():
    return torch.randint(3, 64, (PROMPT,), generator=torch.Generator().manual_seed(2))


def spelled(folder, **changes):
    settings = {"p": P, "gamma": GAMMA, "dense": DENSE, "layer_map": f"{folder}/map.json"}
    pairs = ",".join(f"{name}={value}" for name, value in (settings | changes).items())
    return f"spec_attn:{folder}:{pairs}"


def read(draft, ids):
    """Next token after each, and per layer the positions that each query's nucleus keeps."""
    draft.set_attn_implementation("eager")
    with torch.no_grad():
        output = draft(input_ids=torch.tensor([ids]), output_attentions=True)
    kept = []
    for weights in output.attentions:
        mean = weights[0].mean(0).tolist()
        rows = [literal_nucleus(row[: at + 1], P, 10) for at, row in enumerate(mean)]
        kept.append([{at for at, stays in enumerate(row) if stays} for row in rows])
    return output.logits[0].argmax(-1).tolist(), kept


def verify(model, ids, allowed):
    """Logits of a whole pass in which query t of layer j sees allowed[j][t] alone, where given."""

    def attend(module, query, key, value, mask, scaling, dropout=0.0, **extra):
        logits = query @ key.repeat_interleave(2, 1).mT * scaling
        seen = torch.ones(logits.shape[-2:]).tril().bool()
        for row, keys in allowed.get(module.layer_idx, {}).items():
            seen[row] &= torch.tensor([at in keys for at in range(len(ids))])
        weights = logits.masked_fill(~seen, -torch.inf).softmax(-1)
        return (weights @ value.repeat_interleave(2, 1)).transpose(1, 2), weights

    ALL_ATTENTION_FUNCTIONS.register("literal", attend)
    before = model.config._attn_implementation
    try:
        model.config._attn_implementation = "literal"
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        model.config._attn_implementation = before
        type(ALL_ATTENTION_FUNCTIONS)._global_mapping.pop("literal")


def union(kept, layer, rows):
    return set().union(*(kept[MAP[layer]][row] for row in rows))


def literal_generation(model, draft, prompt, tokens):
    """Tokens, and how many drafts there were and stood."""
    ids, allowed = prompt.tolist(), {layer: {} for layer in range(DENSE, 3)}
    made, drafted, accepted = [], 0, 0
    while len(made) < tokens:
        first, given = len(ids) - 1, list(ids)
        for _ in range(GAMMA - 1):
            given.append(read(draft, given)[0][-1])
        foreseen, kept = read(draft, given)
        rows = range(first, first + GAMMA)
        for layer, own in allowed.items():
            own |= {row: union(kept, layer, rows) for row in rows}
        chosen = verify(model, given, allowed).argmax(-1).tolist()[first:]
        right = 0
        while right < GAMMA - 1 and foreseen[first + right] == chosen[right]:
            right += 1
        drafted, accepted = drafted + GAMMA - 1, accepted + right
        made += chosen[: right + 1]
        ids += chosen[: right + 1]
    return made[:tokens], drafted, accepted


def opened(model, one):
    return steer(model, Trial("decode", "spec_attn", EVERY).choose(one))


def speculating(model, text, prompt):
    own = Speculating(follower(selector(text)))
    own.prepare(model, prompt, whole=False)
    return own


def test_generation_is_the_literal_run(model, folder, prompt):
    own = speculating(model, spelled(folder), prompt)
    cache = prefill(model, prompt)
    with opened(model, own.follower):
        clock = Clock(model.device)
        made = own.generate(model, prompt, cache, STEPS, lambda made: False, clock)
    draft = LlamaForCausalLM.from_pretrained(folder).eval()
    expected, drafted, accepted = literal_generation(model, draft, prompt, STEPS)
    assert made == expected
    assert (own.drafted, own.accepted) == (drafted, accepted)


def test_replay_is_the_literal_run(model, folder, prompt):
    forced = torch.randint(3, 64, (STEPS,), generator=torch.Generator().manual_seed(3)).tolist()
    own = speculating(model, spelled(folder), prompt)
    cache = prefill(model, prompt)
    with opened(model, own.follower):
        found = own.replay(model, prompt, cache, forced, Clock(model.device))
    draft = LlamaForCausalLM.from_pretrained(folder).eval()
    ids, first = [*prompt.tolist(), *forced[:-1]], PROMPT - 1
    kept = read(draft, ids)[1]
    rounds = [range(at, min(at + GAMMA, len(ids))) for at in range(first, len(ids), GAMMA)]
    allowed = {
        layer: {row: union(kept, layer, rows) for rows in rounds for row in rows}
        for layer in range(DENSE, 3)
    }
    expected = verify(model, ids, allowed)[first:].log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


def test_a_model_that_drafts_for_itself_is_always_right(prompt, tmp_path):
    model = model_of(3, seed=0)
    model.save_pretrained(tmp_path)
    own = speculating(model, f"spec_attn:{tmp_path}:p=1,gamma=3", prompt)
    assert own.follower.mapped == [0, 1, 2]  # calibrated on the prompt: nothing is liker
    cache, clock = prefill(model, prompt), Clock(model.device)
    with opened(model, own.follower):
        made = own.generate(model, prompt, cache, STEPS, lambda made: False, clock)
    with steer(model, [], layers=()):
        dense = generate_alone(model, prompt, STEPS, lambda made: False)
    assert made == dense
    assert own.accepted == own.drafted > 0


@pytest.mark.parametrize("mode", ["replay", "decode", "prefill+decode"])
def test_every_mode_runs_and_entropy_rows_are_each_query_once(model, folder, prompt, mode):
    info = SampleInfo("s", "noise", PROMPT)
    log = Entropies(info, PROMPT, parse("last:4", 0))
    one, text = Subject(model, None, Encoded(prompt, info), log), spelled(folder, exit=2)
    measure([one], Protocol((mode,), (text,), (6,), (), STEPS))
    row = next(row for row in one.rows if row["selector"] == text)
    assert row["tokens"] == STEPS
    rows = log.table().to_pandas().query("selector == @text and phase == 'decode'")
    places = rows.groupby(["layer", "head"])["position"].apply(list)
    assert all(each == list(range(PROMPT - 1, PROMPT - 1 + STEPS)) for each in places)


def test_a_layer_map_is_calibrated_once_a_prompt(prompt, tmp_path):
    model = model_of(3, seed=0)
    model.save_pretrained(tmp_path)
    first = speculating(model, f"spec_attn:{tmp_path}", prompt)
    again = Speculating(first.follower.again())
    assert again.follower.mapped is first.follower.mapped == [0, 1, 2]


def test_what_cannot_draft_is_one_line(model, folder, prompt, tmp_path):
    with pytest.raises(InputError, match=r"exit=3: the draft .* has 2 layers"):
        speculating(model, spelled(folder, exit=3), prompt)
    other = LlamaConfig(vocab_size=80, hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    LlamaForCausalLM(other).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="80 tokens and the model 64"):
        speculating(model, spelled(folder).replace(f":{folder}:", f":{tmp_path}:"), prompt)
    (folder / "bad.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="expected a list of draft layers"):
        speculating(model, spelled(folder, layer_map=f"{folder}/bad.json"), prompt)
