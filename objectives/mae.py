"""Masked autoencoding (He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", section 3 and appendix A).

Hidden:  a random 75 % of the patches; the encoder sees only the others (positions are added before).
Input:   encoded visible patches and a learned mask token at every hidden place, with fixed positions, to a small decoder.
Target:  the pixels of the hidden patches, normalised by each patch's own mean and standard deviation.

Shapes: B pictures, C channels, N patches, K visible, M hidden (K + M = N), P prefix tokens, D width, E decoder width,
X = patch² · C pixel values a patch.
"""

from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder, take
from models.fused import fused
from models.last_block import allow_part
from models.positions import sincos_positions
from objectives.draw import Draw
from objectives.objective import Batch, Objective, Outcome
from objectives.pictures import tile
from objectives.views import Crops, CropScale
from ranges import Count, OpenShare


class MaskedAutoencoder(Objective):
    """MAE.

    Args:
        encoder: one that can drop patches, that is, a plain vision transformer.
        spec: the opened data set.
        mask_ratio: share of patches hidden, the same number in every picture.
        decoder_width, decoder_depth, decoder_heads: the decoder, which is thrown away afterwards. By default the paper's
            512, 8, 16; for encoders narrower than 512 their own width, 4, width / 32, or it would outweigh them.
        normalise_target: per-patch normalisation of the target pixels.
        crop_scale: area range of the random resized crop, the only augmentation besides the flip.
    """

    modality = "image"
    needs = ("views",)
    drops_patches = True

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        mask_ratio: OpenShare = 0.75,
        decoder_width: Count | None = None,
        decoder_depth: Count | None = None,
        decoder_heads: Count | None = None,
        normalise_target: bool = True,
        crop_scale: CropScale = (0.2, 1.0),
    ):
        super().__init__(encoder)
        num_patches, patch = encoder.num_patches, encoder.patch_size
        visible = num_patches * (1 - mask_ratio) // 1  # whole patches; int() would raise on NaN
        if not 0 < visible < num_patches:
            raise BadInput(f"objective.mask_ratio={mask_ratio} leaves {visible:g} of {num_patches} patches visible")
        self.num_visible = int(visible)
        self.normalise_target, self.crop_scale, self.image_size = normalise_target, tuple(crop_scale), spec.image_size
        small = encoder.width < 512
        decoder_width = decoder_width or (encoder.width if small else 512)
        decoder_depth = decoder_depth or (4 if small else 8)
        decoder_heads = decoder_heads or max(1, decoder_width // 32)
        num_prefix = encoder.net.num_prefix_tokens
        grid = round(num_patches**0.5)
        self.register_buffer("positions_LE", sincos_positions(decoder_width, grid, num_prefix), persistent=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.enter = nn.Linear(encoder.width, decoder_width)
        self.decoder = nn.Sequential(
            *(
                Block(decoder_width, decoder_heads, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))
                for _ in range(decoder_depth)
            ),
            nn.LayerNorm(decoder_width, eps=1e-6),
        )
        allow_part(self.decoder[-2])
        self.predict = nn.Linear(decoder_width, patch**2 * spec.channels)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier for linear layers and the flattened patch embedding, N(0, 0.02) for tokens (the authors' code)."""
        nn.init.normal_(self.mask_token, std=0.02)
        for module in [self.enter, *self.decoder.modules(), self.predict]:
            _xavier(module)
        if not self.encoder.pretrained:
            self.encoder.apply(_xavier)
            projection = self.encoder.net.patch_embed.proj
            nn.init.xavier_uniform_(projection.weight.view(projection.weight.shape[0], -1))
            for token in (self.encoder.net.cls_token, self.encoder.net.reg_token):
                if token is not None:
                    nn.init.normal_(token, std=0.02)

    def views(self) -> Crops:
        return Crops(self.image_size, scale=self.crop_scale)

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        images = self.encoder.normalise(batch["views"][:, 0])
        visible_BK, hidden_BM = self.split(draw)
        target_BMX = self.target(images, hidden_BM)  # first, or what it is made of would lie beside all activations
        predicted_BMX = self.reconstruct(images, visible_BK, hidden_BM)
        return Outcome(squared_error(predicted_BMX, target_BMX))

    def split(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """(visible_BK, hidden_BM): a uniformly random split of the patches of each picture."""
        order_BN = draw.permutation("mask", self.encoder.num_patches)
        return order_BN[:, : self.num_visible], order_BN[:, self.num_visible :]

    def reconstruct(self, images: Tensor, visible_BK: Tensor, hidden_BM: Tensor) -> Tensor:
        """Predicted pixel values of the hidden patches, (B, M, X)."""
        seen = self.encoder(images, keep=visible_BK)
        num_prefix, num_visible = seen.prefix.shape[1], visible_BK.shape[1]
        known = self.enter(torch.cat([seen.prefix, seen.tokens], dim=1))
        # every token carries its own position, so visible and hidden ones need not be put back in order
        place_of_prefix, place_NE = self.positions_LE[:num_prefix].expand(len(images), -1, -1), self.positions_LE[num_prefix:]
        known = known + torch.cat([place_of_prefix, place_NE[visible_BK]], dim=1)
        unknown = self.mask_token.to(known.dtype) + place_NE[hidden_BM]
        tokens = torch.cat([known, unknown], dim=1)
        *blocks, last, norm = self.decoder
        for block in blocks:
            tokens = block(tokens)
        decoded = last(tokens, part=slice(num_prefix + num_visible, None))  # only where there is a target
        return self.predict(norm(decoded))

    def target(self, images: Tensor, hidden_BM: Tensor) -> Tensor:
        """(B, M, X): the pixels of the hidden patches, each normalised by its mean and unbiased variance if asked."""
        return pixels_at(images, hidden_BM, self.encoder.patch_size, self.normalise_target)

    @torch.no_grad()
    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """Rows of (picture, what the encoder saw, reconstruction of the hidden patches)."""
        raw = batch["views"][:, 0]
        images = self.encoder.normalise(raw)
        visible_BK, hidden_BM = self.split(draw)
        predicted_BMX = self.reconstruct(images, visible_BK, hidden_BM).float()
        pixels_BNX = patchify(images, self.encoder.patch_size)
        if self.normalise_target:
            variance, mean = torch.var_mean(take(pixels_BNX, hidden_BM), dim=-1, keepdim=True)
            predicted_BMX = predicted_BMX * (variance + 1e-6).sqrt() + mean
        place = hidden_BM.unsqueeze(-1).expand_as(predicted_BMX)
        shown = [
            images,
            unpatchify(pixels_BNX.scatter(1, place, 0.0), self.encoder.patch_size, images.shape[1]),
            unpatchify(pixels_BNX.scatter(1, place, predicted_BMX), self.encoder.patch_size, images.shape[1]),
        ]
        rows = torch.stack(shown, dim=1) * self.encoder.std + self.encoder.mean  # (B, 3, C, H, W)
        return {"reconstructions": tile(rows.clamp(0, 1))}


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@fused
def pixels_at(images: Tensor, hidden_BM: Tensor, patch: int, normalise: bool) -> Tensor:
    """(B, M, X): some patches of pictures, each by its own mean and unbiased variance if asked."""
    pixels_BMX = take(patchify(images, patch), hidden_BM)
    if not normalise:
        return pixels_BMX
    variance, mean = torch.var_mean(pixels_BMX, dim=-1, keepdim=True)
    return (pixels_BMX - mean) / (variance + 1e-6).sqrt()


@fused
def squared_error(predicted_BMX: Tensor, target_BMX: Tensor) -> Tensor:
    """The mean over all values, in float32."""
    return nn.functional.mse_loss(predicted_BMX.float(), target_BMX)


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, N, patch² C), values ordered row, column, channel within a patch."""
    batch, channels, height, width = images.shape
    cut = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch**2 * channels)


def unpatchify(pixels_BNX: Tensor, patch: int, channels: int) -> Tensor:
    """The inverse of `patchify` for square pictures: (B, N, patch² C) -> (B, C, H, W)."""
    grid = round(pixels_BNX.shape[1] ** 0.5)
    cut = pixels_BNX.reshape(len(pixels_BNX), grid, grid, patch, patch, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(len(pixels_BNX), channels, grid * patch, grid * patch)
