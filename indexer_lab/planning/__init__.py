"""What a capture will need, told from a model's configuration alone."""
