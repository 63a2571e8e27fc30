"""DeepSeek-V3.2 and the clones whose indexers select tokens, some of them in some layers only."""

from __future__ import annotations

from indexer_probes.families.latent import Latent

FAMILY = Latent("latent keys, native indexer over tokens", by_chunks=True)
CLONE = Latent("latent keys, native indexer over tokens")
SHARING = Latent("latent keys, native indexer over tokens, shared by the layers that follow")
WINDOWED = Latent("latent keys, native indexer over tokens in some layers, a window in the others")
