"""The training loss: the mean over sequences of their mean token loss, from packed batches with logits at targets only.

L = (1/M) Σ_s (1/n_s) Σ_t CE_t over the M sequences s of an optimiser step and the n_s targets t of each sequence. The
loss does not depend on how the sequences are packed.

Logits are computed at targets only, in chunks that the backward pass computes again. At a vocabulary of 32 000, a chunk
of 1024 targets takes 0.13 GB. All logits of 64k tokens would take 8.4 GB, and their gradient as much again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from gateau.errors import ModelError, SettingsError
from gateau.training.packing import PackedBatch, TokenRow, pack

logger = logging.getLogger(__name__)

DENSE_MASK_LIMIT = 8192
_CHUNK = 1024
_DENSE = ("sdpa", "eager")
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}


class SequenceMeanLoss:
    """The weighted loss of a causal language model at the targets of a packed batch.

    The ``forward`` of the output layer is replaced by a function that returns token losses while targets are set. The
    layer is therefore called exactly once per micro-batch, for any number of targets, as sharded weights (ZeRO-3)
    require.
    """

    def __init__(self, model: Any) -> None:
        head = model.get_output_embeddings()
        if head is None:
            raise ModelError(
                f"{type(model).__name__} has no output embeddings, so it cannot be trained as a chat model"
            )
        check_mask_function(model.config)
        self._model = model
        self._attention = str(model.config._attn_implementation)
        self._logits, self._in_head = head.forward, True
        self._targets: torch.Tensor | None = None
        self._checked = False
        head.forward = self._head

    def __call__(self, model: Any, batch: PackedBatch) -> torch.Tensor:
        """Return the sum over the batch's sequences of their mean token loss.

        The result is a float32 scalar with a graph, also for a filler batch without targets. The first call checks the
        model (:meth:`_check`).

        Raises:
            ModelError: if packed sequences attend to each other in this model.
        """
        if not self._checked:
            self._checked = True
            with _without_dropout(self._model):
                self._check(model, batch.input_ids.device)
        return (self._token_losses(model, batch) * batch.weights).sum()

    def _token_losses(self, model: Any, batch: PackedBatch) -> torch.Tensor:
        """Return the cross-entropy at each of the K targets, float32 ``[K]``."""
        self._targets = batch.targets if self._in_head else None
        try:
            output = model(
                **forward_arguments(batch, self._attention), logits_to_keep=batch.target_places
            ).logits.squeeze(0)
        finally:
            self._targets = None
        return output.squeeze(-1) if self._in_head else _cross_entropy(output, batch.targets)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Run the output layer: return token losses ``[1, K, 1]`` while targets are set, else logits."""
        targets = self._targets
        if targets is None:
            return torch.as_tensor(self._logits(hidden))
        losses = [
            checkpoint(
                self._chunk, hidden[0, start : start + _CHUNK], targets[start : start + _CHUNK], use_reentrant=False
            )
            for start in range(0, max(len(targets), 1), _CHUNK)
        ]
        return torch.cat(losses)[None, :, None]

    def _chunk(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return _cross_entropy(self._logits(hidden), targets)

    @torch.no_grad()
    def _check(self, model: Any, device: torch.device) -> None:
        """Verify, once, that packed sequences cannot attend to each other and that the output layer computes the loss.

        Wrong masks give wrong losses without any error. Some models change the logits after the output layer; for these
        models, the loss is computed from the model's logits instead.
        """
        one, other = ([3, 4, 5, 6], [7, 3, 8])
        parts = [_sequence(one), _sequence(other)]
        together = self._token_losses(model, pack(parts).to(device))
        alone = torch.cat([self._token_losses(model, pack([part]).to(device)) for part in parts])
        self._in_head = False
        plain = torch.cat([self._token_losses(model, pack([part]).to(device)) for part in parts])
        tolerance = _TOLERANCE.get(next(model.parameters()).dtype, 0.15)
        if device.type == "cuda" and torch.is_autocast_enabled():
            tolerance = _TOLERANCE[torch.bfloat16]
        self._in_head = bool((alone - plain).abs().max() <= tolerance)
        if not self._in_head:
            logger.warning(
                "this model changes its logits after the output layer, so all logits at targets are kept in memory"
            )
            together = self._token_losses(model, pack(parts).to(device))
        if (together - plain).abs().max() > tolerance:
            raise ModelError(
                f"packed sequences attend to each other under attention {self._attention} in this model (losses differ "
                f"by {float((together - plain).abs().max()):.2g}); set plan.method: sort, or another train.attention"
            )


@contextmanager
def _without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Put the model itself into evaluation mode for a while; DeepSpeed's engine around it does not know its mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def forward_arguments(batch: PackedBatch, attention: str) -> dict[str, Any]:
    """Return the arguments of a model's forward with which packed sequences do not attend to each other.

    Three mistakes raise no error: a cache (the default of ``use_cache``), an attention mask of ones, and an attention
    function without a registered mask function. A single sequence is causal and needs no further arguments.

    Args:
        batch: the packed batch.
        attention: the model's attention backend.
    """
    arguments: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": None, "use_cache": False}
    if len(batch.lengths) > 1:
        check_dense_mask(attention, sum(batch.lengths))  # the pieces of a single row are not seen in the plan
        arguments["position_ids"] = batch.position_ids
        if attention.startswith("flash"):
            arguments |= {f"cu_seq_lens_{side}": batch.piece_starts for side in "qk"}
            arguments |= {f"max_length_{side}": max(batch.lengths) for side in "qk"}
    return arguments


def check_mask_function(config: Any) -> None:
    """Raise SettingsError if the attention function has no registered mask function.

    Transformers would apply no mask at all for such a function.
    """
    attention = str(config._attn_implementation)
    if attention not in ALL_MASK_ATTENTION_FUNCTIONS.valid_keys():
        raise SettingsError(
            f"attention {attention!r} has no registered mask function, so packed sequences would attend to each other; "
            "choose another train.attention"
        )


def check_dense_mask(attention: str, longest_packed: int) -> None:
    """Raise SettingsError if packing would build an S x S mask that is too large.

    Args:
        attention: the attention backend.
        longest_packed: S, the maximum tokens of a micro-batch with several sequences.
    """
    if attention in _DENSE and longest_packed > DENSE_MASK_LIMIT:
        raise SettingsError(
            f"train.attention {attention} builds a dense mask for packed sequences, and the plan packs up to "
            f"{longest_packed} tokens (limit {DENSE_MASK_LIMIT}): install flash-attn, set train.attention: "
            "flex_attention, plan.method: sort (for rows in several pieces tokens.turns: last), or a smaller "
            "plan.token_budget"
        )


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")


def _sequence(ids: list[int]) -> TokenRow:
    import numpy as np

    return TokenRow.whole(np.array(ids, np.int32), np.array(ids, np.int32))
