"""Words that keys, values and labels are made of, and the split of the keys.

A key is an adjective and a noun, ``calm_otter``: two words that the reader knows in a pair that
the haystack never holds. The split is by a hash of the whole pair, so a model trained on the
training keys has seen every word but none of the evaluation pairs.
"""

from __future__ import annotations

import hashlib
from functools import cache

_ADJECTIVES = """
calm bold warm cold dark pale soft hard wild tame keen mild rare vast tiny huge slow fast late
deep tall thin wide flat full rich poor kind rude wise mad sad glad busy lazy neat odd ripe raw
sour sweet salty bitter fresh stale young ancient modern golden silver crimson scarlet amber azure
violet purple yellow green brown black white gray quiet loud noisy gentle rough smooth sharp blunt
heavy light sturdy fragile hollow solid liquid frozen molten humid arid dusty muddy sandy rocky
grassy mossy leafy woolly furry spotted striped
"""
_NOUNS = """
otter badger falcon heron raven eagle sparrow robin swan goose duck pigeon lion tiger wolf fox
bear moose bison camel donkey pony mule goat sheep lamb calf bull horse zebra panda koala lemur
monkey baboon gorilla rabbit hare mouse rat hamster beaver squirrel hedgehog mole bat whale
dolphin seal walrus shark salmon trout carp perch pike eel crab lobster shrimp squid octopus
oyster clam snail slug worm ant bee wasp hornet beetle moth spider scorpion lizard gecko iguana
turtle tortoise snake cobra viper python frog toad newt dragon unicorn phoenix griffin
"""
_VALUES = """
harbor anchor apple bridge butter candle carpet castle cattle cellar cherry church circle cloud
coffee copper cotton cradle cricket crystal curtain desert diamond dinner doctor drawer engine
farmer feather fiddle finger forest fountain garden garlic ginger glacier glass hammer helmet
honey island jacket jewel jungle kettle kitchen ladder lantern lemon letter locket magnet marble
market meadow melon mirror mitten mountain needle nickel ocean olive onion orange orchard oven
paddle palace paper pebble pencil pepper piano pillow pirate planet pocket potato prairie pumpkin
puzzle quilt radio ribbon river rocket saddle sailor salad shadow shovel sister spoon spring
statue street sugar summer table tailor teapot temple thunder timber tomato tower tractor treasure
tunnel turkey valley velvet village violin wagon walnut water whistle window winter wizard
"""
ADJECTIVES = tuple(_ADJECTIVES.split())
NOUNS = tuple(_NOUNS.split())
VALUES = tuple(_VALUES.split())
SPLITS = ("train", "eval")


def split_of(name: str) -> str:
    """The split that a key or a file name belongs to: "train" (three quarters) or "eval"."""
    return "eval" if hashlib.sha256(name.encode()).digest()[0] < 64 else "train"


@cache
def keys(split: str) -> tuple[str, ...]:
    """Every key of a split, ``adjective_noun``, in a fixed order."""
    pairs = (f"{adjective}_{noun}" for adjective in ADJECTIVES for noun in NOUNS)
    return tuple(pair for pair in pairs if split_of(pair) == split)
