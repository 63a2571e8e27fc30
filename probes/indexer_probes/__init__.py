"""A transformers model in, layer records out. Import the submodule you need."""
