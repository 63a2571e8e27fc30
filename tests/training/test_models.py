"""New models, and the heads that some of them start with."""

from __future__ import annotations

import pytest
import torch

from indexer_lab.errors import InputError
from indexer_lab.tasks.words import ADJECTIVES, NOUNS, VALUES
from indexer_lab.training import models
from indexer_lab.training.config import plan_of
from indexer_lab.training.data import ANSWER, CONTEXT, UNLEARNED, Stream
from indexer_lab.training.dsa import indexers_of
from indexer_lab.training.look_back import look_back
from indexer_lab.training.tokenizer import train_tokenizer


def attention(model, ids):
    """What each layer's heads look at, with every key selected."""
    for indexer in indexers_of(model):
        indexer.index_topk = ids.shape[1]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model.eval()(input_ids=ids, output_attentions=True).attentions


@pytest.mark.parametrize("name", ["dsa", "llama"])
def test_the_first_heads_look_back_as_far_as_told(name, request):
    model = request.getfixturevalue(name)
    look_back(model, 0, [1, 3])
    ids = torch.randint(1, 1000, (1, 40), generator=torch.Generator().manual_seed(0))
    weights = attention(model, ids)[0][0]  # (head, query, key)
    for head, offset in enumerate([1, 3]):
        shares = [weights[head].diagonal(-back)[10:].mean() for back in range(8)]
        assert shares.index(max(shares)) == offset
        assert shares[offset] > 2 * sum(shares) / len(shares)


def test_a_new_model_is_decided_by_its_seed(dsa, fine):
    keep = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    config = {name: getattr(dsa.config, name) for name in keep}
    config |= {"vocab_size": 64, "intermediate_size": 32, "head_dim": 16}

    def made(seed):
        content = {"model": {"family": "llama", "config": config}, "seed": seed}
        return models.new_model(plan_of({**fine, **content}))

    first, again, other = (made(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("make", [models.new_model, models.new_tokenizer])
def test_a_plan_without_a_model_makes_none(make, plan):
    with pytest.raises(InputError, match=r"the plan has no (model|tokenizer): give"):
        make(plan())


def test_the_tasks_words_are_single_tokens():
    tokenizer = train_tokenizer(vocabulary=2048, files=40)
    spelled = [f" {word}" for word in (*ADJECTIVES, *VALUES)] + [f"_{noun}" for noun in NOUNS]
    assert [word for word in spelled if len(tokenizer.encode(word)) > 1] == []
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("12")) == ["1", "2"]


def test_a_text_has_the_tokens_of_its_lines(tokenizer):
    text = "def f(x):\n    # calm_otter is harbor\n\n    return x[12] + 'ä'\n"
    lines = [tokenizer.encode(line) for line in text.splitlines(keepends=True)]
    assert [token for line in lines for token in line] == tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_repeated_passage_is_learned_from_its_second_time_on(plan, tokenizer):
    made = plan(repeats=1.0, length=64)
    stream = Stream(made, tokenizer)
    for step in range(4):
        batch = stream.batch(made.phases[0], step)
        for inputs, labels, answers in zip(batch.inputs, batch.labels, batch.answers, strict=True):
            first = int(answers.int().argmax())
            period = first + 1 - CONTEXT
            assert torch.equal(labels[first:], inputs[first + 1 - period : 65 - period])
            assert (labels[:first] == -100).all()


def test_a_task_that_does_not_fit_is_made_smaller(plan, tokenizer):
    made = plan(tasks={"multi_query": 1.0}, length=64, density=1.0, text=0.0)
    kinds = [stream_kinds(made, tokenizer, index) for index in range(8)]
    assert all(ANSWER in row and UNLEARNED not in row for row in kinds)


def stream_kinds(plan, tokenizer, index):
    return Stream(plan, tokenizer)._sequence(64, f"fits-{index}")[1]


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot load the model .*nowhere"):
        models.load(str(tmp_path / "nowhere"), "cpu")
