"""SimCLR beside lightly's under Lightning, from decoded pictures to the step: augmentation is part of the work.

Both cut and colour the same pictures in the training process, at the strengths that are usual at 32 px.
"""

import lightning as L
import torch
import torchvision
from lightly.data.multi_view_collate import MultiViewCollate
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.simclr_transform import SimCLRTransform
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.cases.case import Case, Peer
from benchmarks.gate import Gate
from benchmarks.peers import LR, Repeated, lightning_trainer
from benchmarks.works import Work
from objectives.simclr import SimCLR


class LightlySimCLR(L.LightningModule):
    """As lightly's documentation writes it ("SimCLR", PyTorch Lightning example), on a ResNet for small pictures."""

    def __init__(self, own: SimCLR):
        super().__init__()
        resnet = torchvision.models.resnet18()
        resnet.conv1, resnet.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        hidden, embedding = own.projector[0].out_features, own.projector[-1].num_features
        self.projection_head = SimCLRProjectionHead(512, hidden, embedding)
        self.criterion = NTXentLoss(temperature=own.temperature)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.projection_head(self.backbone(pictures).flatten(start_dim=1))

    def training_step(self, batch: tuple, batch_idx: int) -> Tensor:
        (first, second), _, _ = batch
        return self.criterion(self(first), self(second))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=LR)


def lightly(gate: Gate, work: Work, precision: str) -> None:
    transform = SimCLRTransform(input_size=work.image_size, cj_strength=0.5, gaussian_blur=0.0)
    data = Repeated(work.pictures(), lambda picture: (transform(picture), 0, ""))
    loader = DataLoader(data, batch_size=work.batch, collate_fn=MultiViewCollate())
    lightning_trainer(gate, LightlySimCLR(work.build()), loader, precision)


CASES = {
    "simclr": Case(
        Work("simclr", "resnet18", batch=128, image_size=32, from_pictures=True),
        Work("simclr", "resnet18", 4, image_size=8, from_pictures=True, words=("objective.projector_width=32",)),
        {"lightly": Peer(lightly, "lightly under Lightning", 1.0)},
        batch_fp32=64,
    )
}
