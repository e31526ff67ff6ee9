"""What a run needs of Lightning: a Trainer that only predicts, and the examples that are not finished."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from certification.request import Computing

# A distributed run has several processes and one terminal.
print_once = rank_zero_only(print)


def is_first_process() -> bool:
    """Return whether this process is the one that prints, and writes what is written once."""
    return int(rank_zero_only.rank) == 0  # type: ignore[attr-defined]  # which Lightning sets on the function


class RemainingExamples(LightningDataModule):
    """Those examples of all that are at the positions ``todo``, not finished, each for one of the processes.

    Which ones, the first process says: another one may have looked while files were moved.
    """

    def __init__(self, examples: Subset[dict[str, Tensor]], todo: Sequence[int]) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # there may be more processes than examples
        self.examples = examples
        self.todo = list(todo)

    def predict_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Load one example after the other; Lightning asks for it once the processes know each other."""
        assert self.trainer is not None  # it is the Trainer that asks
        todo: list[int] = self.trainer.strategy.broadcast(self.todo)
        todo = todo[self.trainer.global_rank :: self.trainer.world_size]
        # Lightning copies pinned examples to a GPU without waiting
        pin_memory = self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(Subset(self.examples, todo), batch_size=1, pin_memory=pin_memory)


def make_trainer(on: Computing, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Return a Trainer that predicts and writes nothing by itself.

    Raises:
        ValueError: for settings that do not work on this machine.
    """
    try:
        return Trainer(
            accelerator=on.accelerator,
            devices=int(on.devices) if on.devices.lstrip("-").isdigit() else on.devices,
            num_nodes=on.num_nodes,
            strategy=on.strategy,
            precision=on.precision,  # type: ignore[arg-type]  # Lightning itself says which words it knows
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            inference_mode=False,
            use_distributed_sampler=False,  # it would give some examples twice, or none to a process
        )
    except Exception as error:  # Lightning has its own exceptions for each of these arguments
        raise ValueError(
            f"--accelerator={on.accelerator} --devices={on.devices} --strategy={on.strategy} "
            f"--precision={on.precision} do not work here: {error}"
        ) from error
