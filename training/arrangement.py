"""How an objective is laid out over devices and compiled, in place: names, shapes and what is learned stay as they are."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from models.attention import set_attention
from models.encoder import Encoder
from models.fused import as_written, compile_chains
from objectives.draw import Draw
from objectives.objective import Batch, Objective
from training.batch_norm import statistics_kept, synchronise_batch_norm

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
ROWS_A_PROGRAM = 64  # of a norm's backward pass, whose sums are then added up: with the compiler's own 16 that takes as long
VERSIONS = 64  # of the compiled blocks: by kind, shape and what is learned; beyond PyTorch's own 8 they would run as written


@dataclass
class Arrangement:
    """What `trainer` says of the layout.

    Attributes:
        accumulate: parts of a step.
        activation_checkpointing, compile: of the blocks.
        half_stream: whether what passes between blocks, and what norms make, is in half precision, where products are.
        precision: "fp32", "bf16" or "fp16"; sharded weights travel in it.
        device: "cpu", "cuda" or "mps".
    """

    accumulate: int = 1
    activation_checkpointing: bool = False
    compile: bool = False
    half_stream: bool = False
    precision: str = "fp32"
    device: str = "cpu"
    _applied: bool = field(default=False, init=False)
    _copy: Objective | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, settings: dict[str, Any], resolved: dict[str, Any]) -> "Arrangement":
        """From the config node `trainer` and what its `auto` became."""
        names = ("accumulate", "activation_checkpointing", "compile", "half_stream")
        return cls(**{name: settings[name] for name in names}, precision=resolved["precision"], device=resolved["device"])

    def apply(self, objective: Objective, mesh: DeviceMesh | None) -> None:
        """Arrange an objective, once, before its optimiser is made; a `mesh` shards it.

        Synchronised batch norm; then for each block its stream in half precision, compilation, checkpointed activations and
        sharding, in this order from the inside out; last the rest of the weights as one more shard. Norms outside blocks, over
        all tokens like them, are compiled on their own.
        """
        if self._applied:
            return
        self._applied = True
        if mesh is not None and dist.get_rank() == 0:
            self._copy = copy.deepcopy(objective)
        if dist.is_initialized() and dist.get_world_size() > 1:
            synchronise_batch_norm(objective, self.device)
        compile_chains(self.compile)
        if self.compile:
            _configure_compiler()
        blocks = all_blocks(objective)
        inside = {part for block in blocks for part in block.modules()}
        for norm in [part for part in objective.modules() if isinstance(part, nn.LayerNorm | nn.RMSNorm)]:
            if self.half_stream and self.precision in HALF:
                norm.forward = in_half(norm.forward, HALF[self.precision])
            if self.compile and norm not in inside:
                norm.forward = torch.compile(norm.forward, dynamic=False)
        for block in blocks:
            if self.half_stream and self.precision in HALF:
                block.forward = in_half(block.forward, HALF[self.precision])
            if self.compile:  # for their very shapes, which do not change while one trains
                block.forward = torch.compile(block.forward, dynamic=False)
            if self.activation_checkpointing:
                contexts = partial(first_and_again, block)
                block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)
        if mesh is not None:
            for weight in objective.parameters():
                weight.data = weight.data.contiguous()  # channels-last kernels of a ResNet cannot be sharded
            dtype = HALF.get(self.precision) if self.device == "cuda" else None  # a CPU's norms take weights in float32 alone
            policy = MixedPrecisionPolicy(dtype, dtype and torch.float32, cast_forward_inputs=False)
            for part in (*blocks, objective):
                fully_shard(part, mesh=mesh["data_parallel"], mp_policy=policy)

    @contextmanager
    def whole(self, objective: Objective) -> Iterator[Objective | None]:
        """The objective with all of its weights, on the first rank; None on the others. All ranks must ask.

        Its blocks are as they are written: what is looked at comes in all shapes, and each would be compiled. A sharded one is
        gathered, weight by weight, into the copy that the first rank kept of it.
        """
        first = not dist.is_initialized() or dist.get_rank() == 0
        if not any(isinstance(weight, DTensor) for weight in objective.parameters()):
            arranged = {block: vars(block).pop("forward") for block in objective.modules() if "forward" in vars(block)}
            try:
                with as_written():
                    yield objective if first else None
            finally:
                for block, forward in arranged.items():
                    block.forward = forward
            return
        theirs = self._copy.state_dict() if self._copy is not None else {}
        for name, tensor in objective.state_dict().items():
            gathered = gather(tensor)
            if gathered is not None:
                theirs[name].copy_(gathered)
        if self._copy is not None:
            self._copy.to(next(objective.parameters()).device)
        with as_written():
            yield self._copy
        if self._copy is not None:
            self._copy.to("cpu")


def _configure_compiler() -> None:
    """For the whole process: how many versions of a function are kept, and how many rows a program of a norm's gradient has."""
    from torch._inductor import config  # seconds, which only those wait who compile

    torch._dynamo.config.recompile_limit = max(VERSIONS, torch._dynamo.config.recompile_limit)
    if hasattr(config.triton, "mix_order_reduction_split_size"):
        config.triton.mix_order_reduction_split_size = ROWS_A_PROGRAM


def all_blocks(objective: Objective) -> list[nn.Module]:
    """The encoders' blocks, and those of the same kinds in decoders, generators and teachers; none lies inside another one.

    A container's kind says nothing of what is in it: where stages are blocks, as in ConvNeXts, they are `nn.Sequential`, and so
    is a projector. A list, which nobody calls, stands for what it holds.
    """
    own = {block for part in objective.modules() if isinstance(part, Encoder) for block in _called(part.blocks)}
    kinds = tuple({type(block) for block in own} - {nn.Sequential})
    found, inside = [], set()
    for module in objective.modules():  # what holds others comes before them
        if module not in inside and (module in own or isinstance(module, kinds)):
            found.append(module)
            inside |= set(module.modules())
    return found


def _called(blocks: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Blocks, with the parts of a list in its place."""
    for block in blocks:
        if isinstance(block, nn.ModuleList):
            yield from _called(block)
        else:
            yield block


def first_and_again(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """What a block's forward pass runs in, and what its repetition: a batch counts once in the statistics of batch norms."""
    return nullcontext(), statistics_kept(block)


def in_half(forward: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    """The `forward` of a block, or of a norm, whose output autocast leaves in float32, between streams of a half precision.

    With other outputs than the stream, that is the first.
    """

    def between_halves(hidden: Tensor, *rest: Any, **settings: Any) -> Any:
        made = forward(hidden.to(dtype), *rest, **settings)
        return (made[0].to(dtype), *made[1:]) if isinstance(made, tuple) else made.to(dtype)

    return between_halves


def freeze_unused(objective: Objective, batch: Batch) -> None:
    """Stop training weights that the loss does not reach, such as the pooler of some pretrained models.

    One process leaves them as they are; ranks would wait for their gradients. Their names stay in `objective.unreached`, so
    that the optimiser has them among its groups all the same, and a checkpoint fits any number of ranks.
    """
    trial = copy.deepcopy(objective)
    set_attention(trial, "eager")  # this is on the host, where a GPU's kernels are not
    trial(batch, Draw(0, batch["epoch"], batch["index"])).loss.backward()
    reached = {name for name, weight in trial.named_parameters() if weight.grad is not None}
    trained = {name: weight for name, weight in objective.named_parameters() if weight.requires_grad}
    objective.unreached = frozenset(trained.keys() - reached)
    for name in objective.unreached:
        trained[name].requires_grad_(False)


def gather(tensor: Tensor) -> Tensor | None:
    """A whole tensor on the host of the first rank, None on the others; what is not sharded is the same on all ranks."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu() if dist.get_rank() == 0 else None
