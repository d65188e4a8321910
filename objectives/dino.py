"""DINO (Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", section 3 and appendix A).

Input:   large and small crops of a picture, through the encoder and a head that scores prototypes: the student.
Target:  what a momentum copy, the teacher, makes of the large crops. Its scores are centred, so that no prototype wins
         everywhere, and sharpened by a low temperature, so that not all win alike. A crop is never its own target.

Shapes: b pictures on this rank, G large (global) and S small (local) crops of each, V = G + S, K prototypes, D encoder
width, E bottleneck width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder
from objectives.collapse import entropy, feature_std
from objectives.draw import Draw
from objectives.gather import mean_over_ranks
from objectives.objective import Batch, Objective, Outcome
from objectives.photometry import SMALL_IMAGE, Photometry, byol_colours, floats
from objectives.pictures import tile
from objectives.schedule import cosine, rise
from objectives.simclr import at_least_float32
from objectives.teacher import Teacher
from objectives.views import Crops, CropScale, view_side
from ranges import Count, CountOr0, Positive, Share

NUM_GLOBAL = 2
LOCAL_SIDE = 3 / 7  # of the image: 96 of 224 px in the paper


class DINO(Objective):
    """DINO.

    Args:
        encoder: any image encoder; its pooled features enter the head. With small crops it must read other sizes too.
        spec: the opened data set.
        num_prototypes: K (paper: 65,536).
        head_width, bottleneck_width: of the two hidden layers of the head, and of the vectors that are scored.
        momentum: share of its own weights that the teacher keeps, at the beginning; at the end of the budget it is 1.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's, at the beginning and after the share `temperature_warmup` of the budget.
        centre_momentum: share of itself that the centre keeps each step; 1 switches centring off.
        freeze_prototypes: share of the budget during which the prototypes stay as they are (paper: the first epoch).
        global_scale: area range of the two large crops, which are as large as the image.
        num_local, local_scale: how many small crops, and their area range.
        local_size: side of the small crops in pixels; by default 3/7 of the image, as 96 of 224 px in the paper, rounded
            to whole patches.
    """

    modality = "image"
    needs = ("views",)

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        num_prototypes: Count = 65536,
        head_width: Count = 2048,
        bottleneck_width: Count = 256,
        momentum: Share = 0.996,
        student_temperature: Positive = 0.1,
        teacher_temperature: tuple[Positive, Positive] = (0.04, 0.07),
        temperature_warmup: Share = 0.3,
        centre_momentum: Share = 0.9,
        freeze_prototypes: Share = 0.01,
        global_scale: CropScale = (0.4, 1.0),
        num_local: CountOr0 = 8,
        local_scale: CropScale = (0.05, 0.4),
        local_size: Count | None = None,
    ):
        super().__init__(encoder)
        if min(student_temperature, *teacher_temperature) <= 0:
            raise BadInput("objective.student_temperature and objective.teacher_temperature must be above 0")
        self.momentum, self.centre_momentum, self.freeze_prototypes = momentum, centre_momentum, freeze_prototypes
        self.student_temperature, self.teacher_temperature = student_temperature, tuple(teacher_temperature)
        self.temperature_warmup = temperature_warmup
        small = None
        if num_local > 0:
            unit = encoder.patch_size or 1
            side = local_size or max(1, round(LOCAL_SIDE * spec.image_size / unit)) * unit
            small = Crops(view_side("local_size", side, encoder, spec), num_local, tuple(local_scale), name="local ")
        self.crops = MultiCrops(Crops(spec.image_size, NUM_GLOBAL, tuple(global_scale)), small)
        local = Photometry(0.4, 0.4, 0.2, 0.1, blur=0.0 if spec.image_size <= SMALL_IMAGE else 0.5)
        self.colours = [*byol_colours(spec.image_size), *[local] * num_local]
        self.head = PrototypeHead(encoder.width, head_width, bottleneck_width, num_prototypes)
        self.teacher = Teacher(encoder, self.head)
        self.register_buffer("centre_K", torch.zeros(num_prototypes))
        self.register_buffer("progress", torch.zeros(1))
        self.waiting: list[Tensor] = []

    def views(self) -> "MultiCrops":
        return self.crops

    def augment(self, batch: Batch, draw: Draw) -> list[Tensor]:
        """V crops (b, C, H, W) in [0, 1], the large ones first."""
        crops = [batch["views"][:, i] for i in range(NUM_GLOBAL)]
        crops += batch["local_views"].unbind(1) if "local_views" in batch else []
        return [colour(floats(crop), draw, i) for i, (crop, colour) in enumerate(zip(crops, self.colours, strict=True))]

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        crops = [self.encoder.normalise(crop) for crop in self.augment(batch, draw)]
        large, small = crops[:NUM_GLOBAL], crops[NUM_GLOBAL:]
        frozen = self.progress < self.freeze_prototypes
        features = [self.encoder.embed(torch.cat(part)) for part in (large, small) if part]  # one pass a resolution
        student_VbK = self.head(torch.cat(features), frozen).unflatten(0, (len(crops), -1))
        teacher_GbK = self.teacher(torch.cat(large)).unflatten(0, (NUM_GLOBAL, -1))
        temperature = rise(*self.teacher_temperature, self.progress, self.temperature_warmup)
        loss, target_GbK = self_distillation(student_VbK, teacher_GbK, self.centre_K, self.student_temperature, temperature)
        if torch.is_grad_enabled():  # a step, or a part of one
            self.waiting.append(mean_over_ranks(teacher_GbK.float().mean(dim=(0, 1))))
        report = {
            "teacher_entropy": entropy(target_GbK.flatten(0, 1)).mean(),  # of one picture: ln K is collapse to nothing
            "prototype_entropy": entropy(target_GbK.mean(dim=(0, 1))[None])[0],  # of the batch: 0 is collapse to one
            "feature_std": feature_std(features[0].chunk(NUM_GLOBAL)[0]),
        }
        return Outcome(loss, report)

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.head, cosine(self.momentum, 1.0, progress))
        if self.waiting:
            self.centre_K.lerp_(torch.stack(self.waiting).mean(dim=0), 1 - self.centre_momentum)
        self.waiting.clear()
        self.progress.fill_(progress)

    @torch.no_grad()
    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """Rows of large crops, then small ones at their size, as the encoder sees them."""
        crops, side = self.augment(batch, draw), self.crops.large.size
        shown = [F.pad(crop, (0, side - crop.shape[-1], 0, side - crop.shape[-2])) for crop in crops]
        return {"views": tile(torch.stack(shown, dim=1))}


@dataclass(frozen=True)
class MultiCrops:
    """Crops of two sizes (Caron et al. 2020, "SwAV", section 3.2)."""

    large: Crops
    small: Crops | None

    def __call__(self, pictures: list[Image], seed: int, epoch: Tensor, index: Tensor) -> Batch:
        """{"views": (B, G, C, H, W), "local_views": (B, S, C, h, w)} uint8."""
        views = {"views": self.large(pictures, seed, epoch, index)}
        return views if self.small is None else views | {"local_views": self.small(pictures, seed, epoch, index)}


class PrototypeHead(nn.Module):
    """Three layers with GELU, then the cosine with every prototype.

    The authors' weight-normed last layer with its scale fixed at 1 is the same.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, num_prototypes: int):
        super().__init__()
        layers = [nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)]
        self.layers = nn.Sequential(*layers)
        for layer in self.layers[::2]:
            nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)  # 0.02 at 2,048, as the authors have it
            nn.init.zeros_(layer.bias)
        self.prototypes_KE = nn.Parameter(torch.randn(num_prototypes, bottleneck) / bottleneck**0.5)

    def forward(self, features_BD: Tensor, frozen: Tensor | None = None) -> Tensor:
        """(B, K); where `frozen` (1,) is true the prototypes get a gradient of zero."""
        prototypes_KE = self.prototypes_KE
        if frozen is not None:
            prototypes_KE = torch.where(frozen, prototypes_KE.detach(), prototypes_KE)
        return F.normalize(self.layers(features_BD), dim=1) @ F.normalize(prototypes_KE, dim=1).T


def self_distillation(
    student_VbK: Tensor, teacher_GbK: Tensor, centre_K: Tensor, student_temperature: float, teacher_temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every crop with every other large crop's target (equation 3), their mean, in float32.

    Shape: student_VbK (V, b, K) begins with the crops of teacher_GbK (G, b, K); centre_K (K,).

    Returns:
        (loss, target_GbK): a scalar, and the teacher's distributions.
    """
    with torch.autocast(student_VbK.device.type, enabled=False):
        student_VbK, teacher_GbK = at_least_float32(student_VbK), at_least_float32(teacher_GbK)
        target_GbK = ((teacher_GbK - centre_K) / teacher_temperature).softmax(dim=-1)
        log_student_VbK = (student_VbK / student_temperature).log_softmax(dim=-1)
        pairs_GV = -torch.einsum("gbk,vbk->gv", target_GbK, log_student_VbK) / student_VbK.shape[1]
        total = pairs_GV.sum() - pairs_GV.diagonal().sum()
        return total / (pairs_GV.numel() - len(target_GbK)), target_GbK
