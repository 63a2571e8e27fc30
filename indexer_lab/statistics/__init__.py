"""Statistics whose unit is the prompt: rows of one prompt are never taken for independent."""
