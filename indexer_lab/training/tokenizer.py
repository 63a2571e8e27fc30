"""A small byte-level BPE for the reference models, trained on the training split alone.

Digits stand alone, a line end is always a token of its own, and indentation never merges with a
word; so the tokens of a text are the tokens of its lines, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from indexer_lab.tasks import haystack
from indexer_lab.tasks.words import ADJECTIVES, NOUNS, VALUES

END = "<|end|>"
PIECES = r"[ _]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}_]+|_+|[^\S\n]+(?!\S)|[^\S\n]+"


def train_tokenizer(vocabulary: int, files: int, seed: int = 0) -> PreTrainedTokenizerFast:
    """A fast tokenizer with `vocabulary` entries, the end-of-text token (id 0) included.

    files: how many files of the training split it learns from; the tasks' words are added often
    enough that each is one token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(files, seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )


def _texts(files: int, seed: int) -> Iterator[str]:
    paths = list(haystack.files("train"))
    chosen: list[Path] = Random(seed).sample(paths, min(files, len(paths)))
    for path in chosen:
        yield "".join(haystack.lines(path))
    words = [f" {word}" for word in (*ADJECTIVES, *VALUES)] + [f"_{word}" for word in NOUNS]
    for _ in range(files * 5):
        yield "".join(words)
