"""A checkpoint through one layer at a time, for models that no device of this machine can hold."""
