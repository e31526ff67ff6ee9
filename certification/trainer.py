"""What a run needs of Lightning: a Trainer that only predicts, and the examples that are not finished."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Subset

# A distributed run has several processes and one terminal.
print_once = rank_zero_only(print)


class RemainingExamples(LightningDataModule):
    """The examples that are not finished, each for one of the processes.

    Which ones, the first process says: another one may have looked while files were moved.

    Args:
        examples: finished or not.
        todo: positions of those that are not.
    """

    def __init__(self, examples: Subset[dict[str, Tensor]], todo: Sequence[int]) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # there may be more processes than examples
        self.examples = examples
        self.todo = list(todo)

    def predict_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """One example after the other; Lightning asks for it once the processes know each other."""
        assert self.trainer is not None  # it is the Trainer that asks
        todo: list[int] = self.trainer.strategy.broadcast(self.todo)
        todo = todo[self.trainer.global_rank :: self.trainer.world_size]
        # Lightning copies pinned examples to a GPU without waiting
        pin_memory = self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(Subset(self.examples, todo), batch_size=1, pin_memory=pin_memory)


def make_trainer(
    *,
    accelerator: str,
    devices: str,
    num_nodes: int,
    strategy: str,
    precision: str,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """A Trainer that predicts and writes nothing by itself. Arguments are those of :class:`Run`.

    Raises:
        ValueError: for settings that do not work on this machine.
    """
    try:
        return Trainer(
            accelerator=accelerator,
            devices=int(devices) if devices.lstrip("-").isdigit() else devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            inference_mode=False,
            use_distributed_sampler=False,  # it would give some examples twice, or none to a process
        )
    except Exception as error:  # Lightning has its own exceptions for each of these arguments
        raise ValueError(
            f"--accelerator={accelerator} --devices={devices} --strategy={strategy} "
            f"--precision={precision} do not work here: {error}"
        ) from error
