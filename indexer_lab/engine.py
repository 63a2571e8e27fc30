"""The kernels as what a capture streams with: an indexer's top-k and the attention over it."""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_lab.backend import Backend, use_kernels, working_on
from indexer_probes.engine import Engine
from indexer_probes.records import LatentKeys


class KernelEngine:
    """Computes with indexer_kernels. backend: "triton", or "torch" for the plain references."""

    def __init__(self, backend: str = "triton"):
        self._backend = backend

    def index_topk(
        self,
        queries: Tensor,
        keys: Tensor,
        weights: Tensor,
        k: int,
        *,
        scale: float,
        activation: str,
        positions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See `indexer_probes.engine.Engine`."""
        from indexer_kernels.lightning_topk import lightning_topk

        with working_on(queries.device):
            return lightning_topk(
                queries,
                keys,
                weights,
                k,
                scale=scale,
                activation=activation,
                positions=positions,
                backend=self._backend,
            )

    def sparse_attention(
        self, queries: Tensor, keys: LatentKeys, support: Tensor, scale: float
    ) -> Tensor:
        """See `indexer_probes.engine.Engine`. Keys and values are never expanded: the queries take
        the keys' up-projection, and the mixed latents the values'."""
        from indexer_kernels.sparse_attention import sparse_latent_attention

        nope = keys.up_keys.shape[1]
        absorbed = torch.matmul(queries[..., :nope], keys.up_keys)  # (head, query, rank)
        with working_on(queries.device):
            mixed, _ = sparse_latent_attention(
                absorbed,
                queries[..., nope:],
                keys.latent,
                keys.rope,
                support[None],
                scale=scale,
                backend=self._backend,
            )
        if keys.up_values is None:
            raise ValueError("attention needs the values' up-projection")
        return torch.matmul(mixed.to(queries.dtype), keys.up_values.mT).transpose(0, 1)


def engine_for(backend: Backend, device: torch.device) -> Engine | None:
    """What a capture on this device computes with; None leaves it to the model's own calls.

    Raises InputError as `use_kernels` does.
    """
    return KernelEngine() if use_kernels(backend, device) else None
