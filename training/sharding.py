"""FSDP2 with checkpoints that every other way of running can read, as `training.checkpoint_files` describes them."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Adam, Optimizer

from training.arrangement import gather
from training.checkpoint_files import rank_file, read_checkpoint, write_file


class Sharded(ModelParallelStrategy):
    """Lightning's FSDP2 strategy over all ranks, with the checkpoints of this project.

    Args:
        size: ranks.
        sharded_checkpoints: a file a rank instead of one whole file.
    """

    def __init__(self, size: int, sharded_checkpoints: bool = False):
        super().__init__(data_parallel_size=size, tensor_parallel_size=1)
        self.sharded_checkpoints = sharded_checkpoints

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_optimizers(self, trainer: L.Trainer) -> None:
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            unfuse(optimizer)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return self._packed(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return self._packed(getattr(optimizer, "optimizer", optimizer).state_dict())

    def _packed(self, state: Any) -> Any:
        """Plain containers of plain tensors: on the first rank all there is, on the others what belongs there."""
        if isinstance(state, dict):
            return {name: self._packed(value) for name, value in state.items()}
        if isinstance(state, list):
            return [self._packed(value) for value in state]
        if not isinstance(state, Tensor):
            return state
        if isinstance(state, DTensor) and self.sharded_checkpoints:
            return {"shard": state.to_local().detach().cpu(), "rows": len(state)}
        return gather(state)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: object = None) -> None:
        path = Path(filepath)
        if not self.sharded_checkpoints:
            if self.is_global_zero:
                write_file(checkpoint, path)
            return
        path.mkdir(exist_ok=True)
        if not self.is_global_zero:
            checkpoint = {name: checkpoint[name] for name in ("state_dict", "optimizer_states")}
        write_file({**checkpoint, "ranks": self.world_size}, path / rank_file(self.global_rank))

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(checkpoint_path))

    def load_model_state_dict(self, checkpoint: dict[str, Any], strict: bool = True) -> None:
        for name, own in self.lightning_module.state_dict().items():
            own.copy_(like(checkpoint["state_dict"][name], own))

    def load_optimizer_state_dict(self, checkpoint: dict[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            state = {
                number: {
                    name: like(value, weights[number]) if isinstance(value, Tensor) and value.ndim else value
                    for name, value in moments.items()
                }
                for number, moments in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})
            unfuse(optimizer)  # the file's groups say what the run before took


def unfuse(optimizer: Optimizer) -> None:
    """One operation at a time where PyTorch cannot run a fused step on shards: it can for Adam and AdamW alone."""
    if not isinstance(optimizer, Adam):
        for group in optimizer.param_groups:
            if group.get("fused"):
                group["fused"] = False


def like(whole: Tensor, own: Tensor) -> Tensor:
    """A whole tensor, the same on every rank, laid out as another one is."""
    if not isinstance(own, DTensor):
        return whole
    return distribute_tensor(whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
