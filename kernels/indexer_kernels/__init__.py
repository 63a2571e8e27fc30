"""Tensors in, tensors out: exact top-k and quantised scores. Import the submodule you need."""
