"""Which of several processes this one is, and how they agree. A process without others is the first of one."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from errors import BadInput, Elsewhere, nearest

STRATEGIES = ("auto", "ddp", "fsdp")
PATIENCE = timedelta(minutes=30)  # of a rank that waits for the others, for example while the first one evaluates

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, one a device.

    Attributes:
        rank: of this process, 0 is the first.
        size: of all nodes.
        local_size: on this node, the same on every one.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def num_nodes(self) -> int:
        return self.size // self.local_size

    def described(self, strategy: str) -> dict[str, str]:
        """For log and result."""
        return {"ranks": f"{self.size} by {strategy}"} if self.size > 1 else {}

    def part(self) -> None:
        """Take leave of the others, at the end of a run that went well."""
        if self.size > 1:
            dist.destroy_process_group()

    def agree(self, decide: Callable[[], Value]) -> Value:
        """What `decide` gives on the first rank, on every rank; what it refuses, they all refuse.

        Raises:
            BadInput: on the first rank, as `decide` raised it; Elsewhere on the others.
        """
        if self.size == 1:
            return decide()
        message: list[Any] = [None, None]
        if self.first:
            try:
                message[0] = decide()
            except BadInput as error:
                message[1] = error
        dist.broadcast_object_list(message)
        value, error = message
        if error is not None:
            raise error if self.first else Elsewhere(str(error))
        return value


def started_ranks() -> Ranks | None:
    """The ranks as torchrun or srun started them; None where this process was started alone."""
    known = os.environ
    if "RANK" in known and "WORLD_SIZE" in known:
        size = int(known["WORLD_SIZE"])
        return Ranks(int(known["RANK"]), size, int(known.get("LOCAL_WORLD_SIZE", size)))
    if int(known.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # set by srun alone, not in the batch script around it
        size = int(known["SLURM_STEP_NUM_TASKS"])
        return Ranks(int(known["SLURM_PROCID"]), size, size // int(known.get("SLURM_STEP_NUM_NODES", 1)))
    return None


def ranks_wanted(settings: dict[str, Any]) -> int:
    """How many ranks the config node `trainer` asks for on this node.

    Raises:
        BadInput: no such strategy, or a number of devices that this strategy cannot use.
    """
    strategy, devices = settings["strategy"], settings["devices"]
    if strategy not in STRATEGIES:
        raise BadInput(f"there is no trainer.strategy '{strategy}'; {nearest(strategy, STRATEGIES)}")
    if devices == "auto":
        gpus = torch.cuda.device_count() if settings["accelerator"] != "cpu" else 0
        return max(1, gpus) if strategy != "auto" else 1
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise BadInput(f"trainer.devices is a positive number or auto, not {devices!r}")
    if strategy == "auto" and devices * settings["num_nodes"] > 1:
        raise BadInput("several devices need a way to share the work: trainer=ddp or trainer=fsdp")
    return devices


def check_alone(settings: dict[str, Any]) -> None:
    """Raise BadInput where several devices are asked for by what runs on one."""
    if settings["strategy"] != "auto" or ranks_wanted(settings) > 1:
        raise BadInput("transfer runs on one device: trainer=auto, cpu or gpu")


def join(settings: dict[str, Any]) -> Ranks:
    """This process among those of the run, connected to them; call it once, before anything is decided.

    Raises:
        BadInput: more or fewer processes were started than the config node `trainer` asks for.
    """
    ranks, devices = started_ranks() or Ranks(), ranks_wanted(settings)
    asked = devices * settings["num_nodes"]
    if ranks.size > 1 and settings["strategy"] == "auto":
        raise BadInput(f"{ranks.size} processes were started, but this is a run of one; choose trainer=ddp or trainer=fsdp")
    if settings["devices"] != "auto" and asked != ranks.size:
        raise BadInput(
            f"{ranks.size} processes were started, trainer.devices={devices} and trainer.num_nodes={settings['num_nodes']} "
            f"ask for {asked}; several nodes are started by torchrun or srun (docs/scaling.md)"
        )
    if ranks.size == 1:
        return ranks
    if "RANK" not in os.environ:
        _translate_slurm(ranks)
    if not dist.is_initialized():  # gloo for what is on the host, NCCL for what is on GPUs
        if settings["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(timeout=PATIENCE)
    return ranks


def _translate_slurm(ranks: Ranks) -> None:
    """Say in torch's words what srun said in SLURM's."""
    from lightning.fabric.plugins.environments import SLURMEnvironment

    environment = SLURMEnvironment(auto_requeue=False)
    os.environ |= {
        "RANK": str(ranks.rank),
        "WORLD_SIZE": str(ranks.size),
        "LOCAL_RANK": str(environment.local_rank()),
        "LOCAL_WORLD_SIZE": str(ranks.local_size),
        "MASTER_ADDR": environment.main_address,
        "MASTER_PORT": str(environment.main_port),
    }


def mean_scalars(values: list[torch.Tensor]) -> list[torch.Tensor]:
    """The mean of each scalar over all ranks, detached; all ranks must give as many."""
    values = [value.detach().float() for value in values]
    if not dist.is_initialized():
        return values
    total = torch.stack([value.reshape(()) for value in values])
    dist.all_reduce(total)
    return list((total / dist.get_world_size()).unbind())


def sum_over_ranks(number: int) -> int:
    """The sum of a small count over all ranks."""
    if not dist.is_initialized():
        return number
    total = torch.tensor(int(number))
    dist.all_reduce(total)
    return int(total)
