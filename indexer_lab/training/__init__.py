"""Training of small retrieval models and of Lightning Indexers, on any deepseek_v32 checkpoint."""
