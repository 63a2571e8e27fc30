"""Published benchmarks under our attention: lm-eval's tasks, and HELMET from its data folder."""
