"""From a recipe in YAML to parameter groups, an optimiser and a schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from errors import BadInput
from models.encoder import Encoder
from objectives.schedule import cosine
from ranges import NotNegative, Positive, Share, ShareAbove0

REFERENCE_BATCH = 256


@dataclass(frozen=True)
class Optimization:
    """How weights are moved.

    Attributes:
        algorithm: an optimiser class with its own settings filled in, called with (groups, lr=...).
        base_lr: learning rate at a global batch of 256; the peak is base_lr * batch / 256.
        weight_decay: on matrices; vectors (biases, norms) never decay, nor what an objective keeps from it.
        final_weight_decay: where the weight decay ends along half a cosine over the budget; None leaves it as it is.
        warmup: share of the budget over which the learning rate rises linearly from 0.
        clip_norm: the gradient's global norm is clipped to this; None is off.
        layer_decay: factor per layer from the head down to the embedding (1 is off); for fine-tuning.
    """

    algorithm: Callable[..., Optimizer]
    base_lr: Positive
    weight_decay: NotNegative = 0.0
    warmup: Share = 0.1
    clip_norm: Positive | None = None
    layer_decay: ShareAbove0 = 1.0
    final_weight_decay: NotNegative | None = None

    def peak_lr(self, batch_size: int) -> float:
        """The linear scaling rule (Goyal et al. 2017)."""
        return self.base_lr * batch_size / REFERENCE_BATCH

    def lr_factor(self, step: int, num_steps: float) -> float:
        """Linear warm-up, then a half cosine to 0, by step; both scale to the budget."""
        warmup_steps = self.warmup * num_steps
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1.0, num_steps - warmup_steps)))

    def move_weight_decay(self, groups: list[dict], step: int, num_steps: float) -> None:
        """Set the weight decay of the matrices' groups for this step (Caron et al. 2021, appendix A, "DINO")."""
        if self.final_weight_decay is None:
            return
        decay = cosine(self.weight_decay, self.final_weight_decay, step / num_steps)
        for group in groups:
            decays = group.get("decays", group["params"][0].ndim > 1)  # earlier checkpoints do not say it
            group["weight_decay"] = decay if decays else 0.0

    def optimizer(self, module: nn.Module, batch_size: int) -> Optimizer:
        """The optimiser over all trainable parameters of `module`, each in exactly one group.

        Raises:
            BadInput: its class refuses its settings.
        """
        groups = parameter_groups(module, self.weight_decay, self.layer_decay)
        peak = self.peak_lr(batch_size)
        for group in groups:
            group["lr"] = peak * group.pop("lr_scale")
        try:
            optimizer = self.algorithm(groups, lr=peak)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            name = getattr(getattr(self.algorithm, "func", self.algorithm), "__name__", "it")
            raise BadInput(f"optimizer.algorithm: {name} refuses its settings: {' '.join(str(error).split())}") from error
        # A fused one would undo fp16's scaling within its step, and Lightning then refuses to clip, in bf16 as well.
        optimizer._step_supports_amp_scaling = False
        return optimizer


def parameter_groups(module: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict]:
    """Trainable parameters, and those named in `module.unreached`, by (layer, decays or not, of tokens or not).

    Each group is {"params", "weight_decay", "lr_scale", "decays", "embedding"}; the last says whether it holds embeddings of
    tokens (`token_tables`). Matrices decay, but for those of modules whose attribute `decays` is False.

    Layer i of n of each encoder inside (embedding 0, blocks 1 to n - 1, final norm n) gets layer_decay ** (n - i), everything
    outside encoders 1 (He et al. 2022, appendix A.1; Clark et al. 2020, section 3.1).
    """
    below_top = {
        id(encoder.get_parameter(name)): len(encoder.blocks) + 1 - layer
        for encoder in module.modules()
        if isinstance(encoder, Encoder)
        for name, layer in encoder.layers().items()
    }
    tables = token_tables(module)
    kept = {id(weight) for part in module.modules() if not getattr(part, "decays", True) for weight in part.parameters()}
    groups: dict[tuple[float, bool, bool], dict] = {}
    unreached = getattr(module, "unreached", ())
    for name, weight in module.named_parameters():
        if not weight.requires_grad and name not in unreached:
            continue
        scale = layer_decay ** below_top.get(id(weight), 0)
        decays, is_table = weight.ndim > 1 and id(weight) not in kept, id(weight) in tables
        decay = weight_decay if decays else 0.0
        fresh = {"params": [], "weight_decay": decay, "lr_scale": scale, "decays": decays, "embedding": is_table}
        group = groups.setdefault((scale, decays, is_table), fresh)
        group["params"].append(weight)
    return list(groups.values())


def token_tables(module: nn.Module) -> set[int]:
    """The ids of the weights inside with a row a token of the vocabulary.

    A network of transformers says which of its embeddings that is; its others are of positions and segments. Elsewhere every
    `nn.Embedding` is one, but for those whose attribute `of_tokens` is False.
    """
    found, inside = set(), set()
    for part in module.modules():  # what holds others comes before them
        if part in inside:
            continue
        if hasattr(part, "get_input_embeddings"):
            found.add(id(part.get_input_embeddings().weight))
            inside |= set(part.modules())
        elif isinstance(part, nn.Embedding) and getattr(part, "of_tokens", True):
            found.add(id(part.weight))
    return found
