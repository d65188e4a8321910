"""Distillation: a student learns what another run's encoder makes of the same view.

Input:   an augmented view of a picture.
Target:  the teacher's features of that view, each picture's standardised (Wei et al. 2022, "Contrastive Learning Rivals
         Masked Image Modeling in Fine-tuning via Feature Distillation", section 3), or the probabilities that it gives to
         classes, softened (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2). Wei et al. take
         the features of every patch; here it is the pooled ones, which encoders of any two kinds have.

The teacher is fixed: it has no gradient and runs in evaluation mode. Labels are not read.

Shapes: b pictures on this rank, C classes, D student width, T teacher width.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.classifier import Classifier
from models.encoder import Encoder
from models.export import load_classifier, load_encoder
from objectives.collapse import feature_std
from objectives.draw import Draw
from objectives.objective import Batch, Objective, Outcome
from objectives.pictures import gallery
from objectives.simclr import at_least_float32
from objectives.views import Crops, CropScale
from ranges import Positive

BEND = 2.0  # distance of features from which on it counts linearly (the authors' code)


class FeatureDistillation(Objective):
    """Distillation of features.

    Args:
        encoder: the student, any image encoder.
        spec: the opened data set.
        teacher: folder of a finished run on pictures.
        projection: whether a linear layer stands between both features; without it their widths must be equal.
        crop_scale: area range of the random resized crop.

    Raises:
        BadInput: there is no such run, or its encoder does not fit: another modality, other colour channels, a size of
            pictures that it cannot read, or another width without a projection.
    """

    modality = "image"
    needs = ("views",)

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        teacher: str,
        projection: bool = True,
        crop_scale: CropScale = (0.2, 1.0),
    ):
        super().__init__(encoder)
        self.crops = Crops(spec.image_size, scale=tuple(crop_scale))
        self.teacher = FixedTeacher(teacher, spec)
        width = self.teacher.encoder.width
        if not projection and width != encoder.width:
            raise BadInput(
                f"objective.teacher='{teacher}' has features of width {width}, the student of {encoder.width}; "
                "objective.projection=true maps one to the other"
            )
        self.projection = nn.Linear(encoder.width, width) if projection else nn.Identity()

    def views(self) -> Crops:
        return self.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        view = batch["views"][:, 0]
        features_bT = self.teacher(view)
        target_bT = F.layer_norm(features_bT, features_bT.shape[1:])
        student_bD = self.encoder.embed(self.encoder.normalise(view))
        predicted_bT = at_least_float32(self.projection(student_bD))
        report = {
            "agreement": F.cosine_similarity(predicted_bT.detach(), target_bT).mean(),
            "feature_std": feature_std(student_bD),
        }
        return Outcome(F.smooth_l1_loss(predicted_bT, target_bT, beta=BEND), report)

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        return {"views": gallery(batch["views"][:, 0])}


class LogitDistillation(Objective):
    """Distillation of class probabilities.

    Args:
        encoder: the student, any image encoder.
        spec: the opened data set; it needs no labels.
        teacher: folder of a finished supervised run on pictures.
        temperature: that both distributions are softened by.
        crop_scale: area range of the random resized crop.

    Raises:
        BadInput: as `FeatureDistillation`, or the run has no classifier.
    """

    modality = "image"
    needs = ("views",)

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        teacher: str,
        temperature: Positive = 4.0,
        crop_scale: CropScale = (0.35, 1.0),
    ):
        super().__init__(encoder)
        if temperature <= 0:
            raise BadInput(f"objective.temperature must be above 0, not {temperature}")
        self.temperature = temperature
        self.crops = Crops(spec.image_size, scale=tuple(crop_scale))
        self.teacher = FixedTeacher(teacher, spec)
        if not (Path(teacher) / "classifier.json").is_file():
            raise BadInput(
                f"objective.teacher='{teacher}' has no classifier, as runs of objective=supervised have; "
                "objective=feature_distillation learns from any run on pictures"
            )
        self.teacher.head = load_classifier(teacher).requires_grad_(False)
        self.head = Classifier(encoder.width, self.teacher.head.class_names)

    def views(self) -> Crops:
        return self.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        view = batch["views"][:, 0]
        target_bC = self.teacher(view)
        student_bC = self.head(self.encoder.embed(self.encoder.normalise(view)))
        agreement = (student_bC.detach().argmax(dim=1) == target_bC.argmax(dim=1)).float().mean()
        return Outcome(softened_divergence(student_bC, target_bC, self.temperature), {"agreement": agreement})

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        return {"views": gallery(batch["views"][:, 0])}


def softened_divergence(student_bC: Tensor, teacher_bC: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the student's from the teacher's softened distribution, times T², in float32.

    The factor keeps the gradient's size the same at any temperature.

    Shape: both (b, C), logits.
    """
    with torch.autocast(student_bC.device.type, enabled=False):
        student_bC, teacher_bC = (at_least_float32(logits) / temperature for logits in (student_bC, teacher_bC))
        nats = F.kl_div(student_bC.log_softmax(dim=1), teacher_bC.log_softmax(dim=1), reduction="batchmean", log_target=True)
        return nats * temperature**2


class FixedTeacher(nn.Module):
    """Another run's encoder, as it was exported.

    Args:
        run: its folder.
        spec: of the data that it must read.
        setting: of the objective, that names the run.
    """

    def __init__(self, run: str, spec: DataSpec, setting: str = "teacher"):
        super().__init__()
        paired = (Path(run) / "pair.json").is_file()
        self.encoder, self.head = load_encoder(run, "image_encoder" if paired else "encoder"), nn.Identity()
        found = self.encoder.modality
        if found != "image":
            raise BadInput(f"objective.{setting}='{run}' is a run on {found}; this objective needs one on pictures")
        channels = len(self.encoder.mean)
        if channels != spec.channels:
            raise BadInput(f"objective.{setting}='{run}' reads {channels} colour channels, '{spec.name}' has {spec.channels}")
        size = self.encoder.image_size
        if not self.encoder.takes(spec.image_size):
            raise BadInput(
                f"objective.{setting}='{run}' was trained on {size} px and cannot read {spec.image_size} px; "
                f"set datamodule.image_size={size}"
            )
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "FixedTeacher":
        """Evaluation mode, always."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, view: Tensor) -> Tensor:
        """(b, C, H, W) uint8 -> (b, T), the pooled features, or what a head makes of them."""
        return at_least_float32(self.head(self.encoder.embed(self.encoder.normalise(view))))
