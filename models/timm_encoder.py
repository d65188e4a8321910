"""timm's backbones behind the Encoder contract, shaped by the data: image size, channels, patch size, stem.

Shapes: B rows, C channels, H = W image size, N patches, K kept patches, P prefix tokens, D width.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.layers import DropPath
from timm.models import VisionTransformer
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput, nearest, one_line
from models.encoder import Encoder, Features, take
from models.fused import fused
from models.last_block import allow_part
from models.patches import can_embed_some, embed_some
from models.positions import sincos_positions
from models.weights import load_strictly
from ranges import Count, ShareBelow1

SMALL_IMAGE = 64  # pixels; up to here a ResNet gets a 3x3 stem without max-pool, as CIFAR recipes do


class TimmEncoder(Encoder):
    """Any timm model as an encoder.

    Args:
        spec: the opened data set; image size and channels come from it.
        name: a name that `timm.create_model` knows.
        pretrained: False, True (timm downloads), or the path of a .safetensors file in timm's key names.
        patch_size: of a vision transformer; by default the smallest that gives at most 14 x 14 patches.
        depth: blocks of a vision transformer; by default as timm names it.
        positions: "learned" (as timm has them) or "sincos" (fixed); only vision transformers have a choice.
        pool: "avg" (mean of the patches) or "token" (the class token).
        drop_path: stochastic depth rate of the last block, rising linearly from 0 at the first.
        settings: more arguments of `timm.create_model`.
        small_stem: of a ResNet, a 3x3 first convolution and no max-pool; by default for pictures of at most 64 px, but not
            where timm's own weights are taken.

    Raises:
        BadInput: unknown name, no patch size that fits, weights that do not fit, a rate of dropped patches, or a model that
            cannot read this picture size.
    """

    modality = "image"

    def __init__(
        self,
        spec: DataSpec,
        name: str,
        pretrained: bool | str = False,
        patch_size: Count | None = None,
        depth: Count | None = None,
        positions: str = "learned",
        pool: str = "avg",
        drop_path: ShareBelow1 = 0.0,
        settings: dict[str, Any] | None = None,
        small_stem: bool | None = None,
    ):
        super().__init__()
        self.name, self.image_size, self.positions = name, spec.image_size, positions
        self.arguments = _timm_arguments(name, spec, patch_size, depth, pool, settings or {})
        self.pretrained = bool(pretrained)
        try:
            self.net = timm.create_model(name, pretrained=pretrained is True, num_classes=0, **self.arguments)
        except (TypeError, AssertionError, ValueError) as error:
            raise BadInput(f"model '{name}' cannot be built for {spec.image_size} px: {one_line(error)}") from error
        except (RuntimeError, OSError) as error:
            raise BadInput(
                f"model '{name}' could not be loaded with its weights: {one_line(error)}; give model.pretrained=<path>"
            ) from error
        if small_stem is None:
            small_stem = spec.image_size <= SMALL_IMAGE and pretrained is not True
        self.small_stem = _is_resnet(self.net) and small_stem
        self.is_vit = isinstance(self.net, VisionTransformer)  # other families have methods of the same names that do otherwise
        if self.is_vit and not isinstance(self.net.patch_drop, nn.Identity):
            raise BadInput(
                f"model.settings.patch_drop_rate={self.net.patch_drop.prob} does nothing here: which patches are left out is "
                "drawn by objectives, as objective=mae and objective.patch_dropout of clip and siglip do"
            )
        if self.small_stem:
            self.net.conv1 = nn.Conv2d(spec.channels, self.net.conv1.out_channels, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.net.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.net.maxpool = nn.Identity()
        if isinstance(self.net, timm.models.ResNet):
            self.net.to(memory_format=torch.channels_last)  # 6 % faster on a 2-core CPU, more on tensor cores
        if positions == "sincos":
            self._fix_positions()
        if isinstance(pretrained, str):
            load_strictly(self.net, _read_weights(pretrained), f"model '{name}'")
        self.set_drop_path(drop_path)
        self.width = getattr(self.net, "head_hidden_size", self.net.num_features)
        self.reads_prefix_alone = self.is_vit and self.net.global_pool == "token" and allow_part(self.blocks[-1])
        self.embeds_some = self.is_vit and can_embed_some(self.net)
        self.patch_size = self.arguments.get("patch_size", 0)
        self.drops_patches = self.is_vit and self.patch_size > 0  # without one, patches are those of a convolutional stem
        self.num_patches = self.num_tokens = (self.image_size // self.patch_size) ** 2 if self.patch_size else 0
        for statistic in ("mean", "std"):
            value = torch.tensor(self.net.pretrained_cfg[statistic])
            value = value if spec.channels == len(value) else value.mean().expand(spec.channels)
            self.register_buffer(statistic, value.view(-1, 1, 1).clone(), persistent=False)
        if not self.is_vit and not _is_resnet(self.net):
            self._check_contract()

    def _fix_positions(self) -> None:
        if not self.is_vit or "patch_size" not in self.arguments or self.net.pos_embed is None:
            raise BadInput(f"model '{self.name}' has no position embedding to fix; use model.positions=learned")
        num_prefix = 0 if self.net.no_embed_class else self.net.num_prefix_tokens
        grid = self.image_size // self.arguments["patch_size"]
        self.net.pos_embed.data.copy_(sincos_positions(self.net.embed_dim, grid, num_prefix)[None])
        self.net.pos_embed.requires_grad_(False)

    @torch.no_grad()
    def _check_contract(self) -> None:
        """Read one picture: what timm's families accept and give back stands in no attribute."""
        training = self.training
        picture = torch.zeros(1, len(self.mean), self.image_size, self.image_size)
        try:
            features = self.eval()(picture)
        except Exception as error:  # each family has its own ways to fail
            reason = one_line(error) or type(error).__name__
            raise BadInput(f"model '{self.name}' cannot read pictures of {self.image_size} px as they are: {reason}") from error
        finally:
            self.train(training)
        if features.pooled.shape != (1, self.width) or features.tokens.ndim != 3:
            shape = tuple(features.pooled.shape)
            raise BadInput(f"model '{self.name}' gives no vector a picture: {shape} instead of (1, {self.width})")

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth (Huang et al. 2016), rising linearly from 0 at the first block to `rate` at the last."""
        for i, block in enumerate(self.blocks):
            for name in ("drop_path", "drop_path1", "drop_path2"):
                if hasattr(block, name):
                    own = rate * i / max(1, len(self.blocks) - 1)
                    setattr(block, name, DropPath(own) if own > 0 else nn.Identity())

    @torch.no_grad()
    def takes(self, image_size: int) -> bool:
        training = self.training
        try:  # timm has no attribute that says so for every model
            self.eval()(torch.zeros(1, len(self.mean), image_size, image_size, device=self.mean.device))
        except (AssertionError, RuntimeError, ValueError):
            return False
        finally:
            self.train(training)
        return True

    @property
    def blocks(self) -> list[nn.Module]:
        if hasattr(self.net, "blocks"):
            return list(self.net.blocks)
        if _is_resnet(self.net):
            return [block for stage in range(1, 5) for block in getattr(self.net, f"layer{stage}")]
        return [module for name, module in self.net.named_children() if name in ("stages", "layers", "features")]

    def layers(self) -> dict[str, int]:
        blocks = self.blocks
        owner = {id(weight): i + 1 for i, block in enumerate(blocks) for weight in block.parameters()}
        above = ("net.norm.", "net.fc_norm.", "net.head")
        return {
            name: owner.get(id(weight), len(blocks) + 1 if name.startswith(above) else 0)
            for name, weight in self.named_parameters()
        }

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        return self.normalise(batch["views"][:, 0])

    def normalise(self, inputs: Tensor) -> Tensor:
        """From what a data set delivers (uint8, or floats in [0, 1]) to what `forward` expects."""
        return normalised(inputs, self.mean, self.std)

    def forward(self, inputs: Tensor, keep: Tensor | None = None) -> Features:
        if keep is not None and not self.drops_patches:
            raise BadInput(f"model '{self.name}' cannot drop patches; {nearest('vit', ['vit_t', 'vit_s', 'vit_b'])}")
        if not self.is_vit:
            maps = self.net.forward_features(inputs.contiguous(memory_format=torch.channels_last))
            pooled_BD = self.net.forward_head(maps, pre_logits=True)
            hidden_BLD = (
                maps.flatten(2).mT if maps.ndim == 4 and maps.shape[1] == self.net.num_features else maps.flatten(1, -2)
            )
            num_prefix = getattr(self.net, "num_prefix_tokens", 0) if maps.ndim == 3 else 0
            return Features(hidden_BLD[:, num_prefix:], pooled_BD, hidden_BLD[:, :num_prefix])
        num_prefix = self.net.num_prefix_tokens
        hidden_BLD = self.net.norm(self.net.blocks(self._entered(inputs, keep)))
        pooled_BD = self.net.forward_head(hidden_BLD, pre_logits=True)
        return Features(hidden_BLD[:, num_prefix:], pooled_BD, hidden_BLD[:, :num_prefix])

    def embed(self, inputs: Tensor, keep: Tensor | None = None) -> Tensor:
        if not self.reads_prefix_alone:
            return super().embed(inputs, keep)
        hidden_BLD = self._entered(inputs, keep)
        for block in self.net.blocks[:-1]:
            hidden_BLD = block(hidden_BLD)
        # the class token, which a head may read together with the distillation token behind it
        prefix_BPD = self.net.blocks[-1](hidden_BLD, part=slice(self.net.num_prefix_tokens))
        return self.net.forward_head(self.net.norm(prefix_BPD), pre_logits=True)

    def _entered(self, inputs: Tensor, keep: Tensor | None) -> Tensor:
        """(B, L, D): what goes into the blocks."""
        if keep is None:
            return self.net.norm_pre(self.net._pos_embed(self.net.patch_embed(inputs)))  # L = P + N
        num_prefix = self.net.num_prefix_tokens
        if self.embeds_some:
            prefix_BPD, patches_BKD = embed_some(self.net, inputs, keep)
        else:
            hidden_BLD = self.net._pos_embed(self.net.patch_embed(inputs))
            prefix_BPD, patches_BKD = hidden_BLD[:, :num_prefix], take(hidden_BLD[:, num_prefix:], keep)
        return self.net.norm_pre(torch.cat([prefix_BPD, patches_BKD], dim=1))

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        recipe = {
            "library": "timm",
            "name": self.name,
            "arguments": self.arguments,
            "small_stem": self.small_stem,
            "positions": self.positions,
            "image_size": self.image_size,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "width": self.width,
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.net.state_dict().items()}, recipe


@fused
def normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bytes, or floats in [0, 1], (B, C, H, W) less the mean of their channel, in its standard deviations."""
    if pixels.dtype == torch.uint8:
        pixels = pixels.float().div_(255)
    return (pixels - mean) / std


def fitting_patch_size(image_size: int) -> int:
    """The smallest patch that cuts the image into 8 x 8 to 14 x 14 patches: 4 at 32 px, 8 at 64, 16 at 224.

    Raises:
        BadInput: no patch size does; the nearest image sizes that work are named.
    """

    def fitting(size: int) -> list[int]:
        return [patch for patch in range(1, size) if size % patch == 0 and 8 <= size // patch <= 14]

    if not fitting(image_size):
        near = sorted((size for size in range(8, 1024) if fitting(size)), key=lambda size: abs(size - image_size))
        raise BadInput(
            f"no patch size cuts {image_size} px into 8 x 8 to 14 x 14 patches; "
            f"set model.patch_size or datamodule.image_size (nearest: {near[0]}, {near[1]})"
        )
    return fitting(image_size)[0]


def _timm_arguments(
    name: str, spec: DataSpec, patch_size: int | None, depth: int | None, pool: str, settings: dict[str, Any]
) -> dict[str, Any]:
    if not timm.is_model(name):
        raise BadInput(f"timm has no model '{name}'; {_nearest_timm(name)}")
    arguments: dict[str, Any] = {"in_chans": spec.channels}
    family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    if family in ("vision_transformer", "deit"):
        patch_size = patch_size or fitting_patch_size(spec.image_size)
        if spec.image_size % patch_size:
            raise BadInput(f"model.patch_size={patch_size} does not divide the image size of {spec.image_size} px")
        arguments |= {"img_size": spec.image_size, "patch_size": patch_size, "global_pool": pool, "fc_norm": False}
        arguments["dynamic_img_size"] = True  # positions are interpolated for views of another size
        arguments |= {"depth": depth} if depth else {}
    else:
        wanted = {"patch_size": patch_size, "depth": depth, "global_pool": None if pool == "avg" else pool}
        for key, value in wanted.items():
            if value is not None and settings.get(key) != value:
                setting = "pool" if key == "global_pool" else key
                raise BadInput(
                    f"model.{setting}={value} is for timm's vision transformers, and '{name}' is none; "
                    f"what timm takes for it goes by +model.settings.<its name>=..."
                )
        if timm.get_pretrained_cfg(name).fixed_input_size:
            arguments["img_size"] = spec.image_size
    return arguments | settings


def _nearest_timm(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.4)
    return f"did you mean {' or '.join(close)}?" if close else "timm.list_models() names them all"


def _is_resnet(net: nn.Module) -> bool:
    return isinstance(net, timm.models.ResNet)


def _read_weights(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise BadInput(f"there are no weights at '{path}'; model.pretrained is true, false or a .safetensors file")
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own Rust error type
        raise BadInput(f"'{path}' is not a readable .safetensors file: {one_line(error)}") from error
