"""How several processes share the noisy copies of one input: the batches in turn, what they need of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Share:
    """Which batches this process evaluates: every ``processes``-th from the ``rank``-th on.

    All processes have to ask for the same outputs in the same order, with the same batch size.

    Attributes:
        rank: of this process, from 0.
        processes: how many there are, at least 1; more than 1 need the default group of torch.distributed.

    Raises:
        ValueError: for a rank that is not one of the processes.
    """

    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        """Check the rank."""
        if not 0 <= self.rank < self.processes:
            raise ValueError(f"rank must lie in 0..{self.processes - 1}, got {self.rank}")

    @classmethod
    def of_this_process(cls) -> Share:
        """The share in torch.distributed's default group; everything where there is no group."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def exchanged(self, own: Tensor | None, like: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """The batches of one round, bit by bit: each process gives its own and gets all.

        Args:
            own: (lengths[rank], *out), or None where there are fewer batches than processes.
            like: (*out), of the dtype of the outputs.
            lengths: of the batches of the round, by rank; the first is the longest.

        Returns:
            The batches by rank, (length, *out) each.
        """
        if self.processes == 1:
            assert own is not None  # a round has a batch
            return [own]
        padded = like.new_zeros((lengths[0], *like.shape))
        if own is not None:
            padded[: len(own)] = own
        sent = padded.flatten().view(torch.uint8)
        received = [torch.empty_like(sent) for _ in range(self.processes)]
        distributed.all_gather(received, sent)
        return [
            given.view(like.dtype).view(padded.shape)[:length] for given, length in zip(received, lengths, strict=False)
        ]

    def add_up(self, distances: Tensor) -> None:
        """Put together, in place, distances that each process has for its own batches, and 0 for the others'."""
        if self.processes > 1 and distances.numel() > 0:
            whole = distances.contiguous()
            distributed.all_reduce(whole)  # a distance plus zeros is itself
            if whole is not distances:
                distances.copy_(whole)
