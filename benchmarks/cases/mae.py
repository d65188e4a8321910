"""Masked autoencoding beside `ViTMAEForPreTraining` under Hugging Face's Trainer, and lightly's MAE under Lightning.

All three get the same pixels: ours as bytes, which it normalises itself, the others as normalised floats.
"""

import lightning as L
import torch
from lightly.models import utils
from lightly.models.modules import MaskedVisionTransformerTIMM
from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from benchmarks.cases.case import Case, Peer
from benchmarks.gate import Gate
from benchmarks.peers import LR, Repeated, huggingface_trainer, lightning_trainer
from benchmarks.works import Work
from objectives.mae import MaskedAutoencoder

MASK_RATIO = 0.75


def huggingface(gate: Gate, work: Work, precision: str) -> None:
    own = work.build()
    block = own.encoder.net.blocks[0]
    decoder_width = own.enter.out_features
    config = ViTMAEConfig(
        hidden_size=own.encoder.width, num_hidden_layers=len(own.encoder.net.blocks), num_attention_heads=block.attn.num_heads,
        intermediate_size=block.mlp.fc1.out_features, image_size=work.image_size, patch_size=own.encoder.patch_size,
        decoder_hidden_size=decoder_width, decoder_num_hidden_layers=len(own.decoder) - 1,
        decoder_num_attention_heads=own.decoder[0].attn.num_heads, decoder_intermediate_size=4 * decoder_width,
        norm_pix_loss=True, mask_ratio=MASK_RATIO,
    )  # fmt: skip
    data = Repeated(normalised(own, work), lambda pixels: {"pixel_values": pixels})
    del own, block  # or their weights would count as the peer's memory
    huggingface_trainer(gate, ViTMAEForPreTraining(config), data, work.batch, precision)


class LightlyMAE(L.LightningModule):
    """As lightly's documentation writes it ("MAE", PyTorch Lightning example), with its newer decoder class."""

    def __init__(self, own: MaskedAutoencoder, image_size: int):
        super().__init__()
        first, last = own.encoder.net.blocks[0], own.decoder[0]
        self.patch_size, width, decoder_width = own.encoder.patch_size, own.encoder.width, own.enter.out_features
        vit = VisionTransformer(
            img_size=image_size, patch_size=self.patch_size, embed_dim=width, depth=len(own.encoder.net.blocks),
            num_heads=first.attn.num_heads, num_classes=0,
        )  # fmt: skip
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        self.sequence_length = self.backbone.sequence_length
        self.embed = nn.Linear(width, decoder_width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=vit.patch_embed.num_patches, embed_dim=decoder_width, depth=len(own.decoder) - 1,
            num_heads=last.attn.num_heads,
        )  # fmt: skip
        self.predict = nn.Linear(decoder_width, self.patch_size**2 * 3)
        self.criterion = nn.MSELoss()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        size = (len(batch), self.sequence_length)
        idx_keep, idx_mask = utils.random_token_mask(size=size, mask_ratio=MASK_RATIO, device=batch.device)
        encoded = self.embed(self.backbone.encode(images=batch, idx_keep=idx_keep))
        masked = utils.repeat_token(self.decoder.mask_token, size)
        masked = utils.set_at_index(masked, idx_keep, encoded.type_as(masked))
        decoded = self.decoder(masked)
        predicted = self.predict(utils.get_at_index(decoded, idx_mask))
        patches = utils.patchify(batch, self.patch_size)
        target = utils.normalize_mean_var(utils.get_at_index(patches, idx_mask - 1), dim=-1)  # no patch is the class token
        return self.criterion(predicted, target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=LR)


def lightly(gate: Gate, work: Work, precision: str) -> None:
    own = work.build()
    loader = DataLoader(Repeated(normalised(own, work), lambda pixels: pixels), batch_size=work.batch)
    module = LightlyMAE(own, work.image_size)
    del own
    lightning_trainer(gate, module, loader, precision)


def normalised(own: MaskedAutoencoder, work: Work) -> Tensor:
    """Two batches of pictures as floats."""
    return own.encoder.normalise(work.pixels()[: 2 * work.batch, 0])


def peers(target: float) -> dict[str, Peer]:
    return {
        "huggingface": Peer(huggingface, "Hugging Face ViTMAEForPreTraining and Trainer", target),
        "lightly": Peer(lightly, "lightly under Lightning", target),
    }


SMALL = ("model.depth=1", "objective.decoder_width=32", "objective.decoder_depth=1", "objective.decoder_heads=2")
TOY = Work("mae", "vit_t", batch=4, image_size=32, words=SMALL)
CASES = {
    "mae": Case(Work("mae", "vit_t", batch=128, image_size=64), TOY, peers(1.7)),
    "mae_vit_b": Case(Work("mae", "vit_b", batch=128, image_size=64), TOY, peers(1.35), batch_fp32=16),
}
