"""Models as Scorers: one decoder block in memory at a time."""

from collections.abc import Sequence
from itertools import groupby

from treadle.core.checkpoint import CheckpointReader
from treadle.core.shapes import Float, Tensor

__all__ = ["BlockScorer"]

_BATCH_ROWS = 32


class BlockScorer:
    """Scores tokens block by block, in float32; see `treadle.core.ports.Scorer`.

    In memory are one block, the embedding, the head and the hidden states of all rows.

    Args:
        reader: The model, of floats.
        trust_remote_code: Run code that the checkpoint brings along.
    """

    computed_by = "blocks of transformers, one at a time, in float32"
    bytes_per_token = 0

    def __init__(self, reader: CheckpointReader, trust_remote_code: bool = False) -> None:
        self._reader, self._trust_remote_code = reader, trust_remote_code

    def token_losses(
        self, rows: Sequence[Sequence[int]], firsts: Sequence[int] | None = None
    ) -> list[Float[Tensor, "_asked"]]:
        """Return -log p of each row's tokens from `firsts` on, in nats, in float32.

        Rows of one length run as one batch; others in batches of similar length, whose ends are
        filled up: attention is causal, so what stands behind a token does not change its loss. Rows
        whose positions turn by other factors (`LayeredModel.rope_lengths`) never share a batch.
        """
        import torch

        from treadle.model.layers import LayeredModel
        from treadle.model.loss import token_losses

        model = LayeredModel(self._reader, self._trust_remote_code)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        is_even = len({len(row) for row in rows}) == 1
        at_once = len(rows) if is_even else _BATCH_ROWS
        # Without its last token, which is not run.
        regimes = groupby(order, lambda index: model.rope_lengths.regime(len(rows[index]) - 1))
        members = [
            some[start : start + at_once]
            for some in (list(group) for _, group in regimes)
            for start in range(0, len(some), at_once)
        ]
        batches = []
        for some in members:
            tokens = torch.zeros(
                len(some), max(len(rows[index]) for index in some), dtype=torch.long
            )
            for place, index in enumerate(some):
                tokens[place, : len(rows[index])] = torch.tensor(rows[index])
            batches.append(tokens)
        found: dict[int, torch.Tensor] = {}
        for some, losses in zip(members, token_losses(model, batches), strict=True):
            for place, index in enumerate(some):
                first = 1 if firsts is None else firsts[index]
                found[index] = losses[place, first - 1 : len(rows[index]) - 1]
        return [found[index] for index in range(len(rows))]
