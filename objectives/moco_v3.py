"""MoCo v3 (Chen, Xie and He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers", sections 3 and 4).

Query:      one augmented view of a picture, through the encoder, a projector and a predictor.
Positive:   the other view of the same picture, through a momentum copy of encoder and projector.
Negatives:  the other views of all other pictures in the batch, on all ranks, through the same copy. There is no queue.

Shapes: b pictures on this rank, B on all ranks, D encoder width, E embedding width.
"""

import torch
import torch.nn.functional as F
from timm.models import named_apply
from timm.models.vision_transformer import VisionTransformer, init_weights_vit_moco
from torch import Tensor, nn

from datamodules.spec import DataSpec
from models.encoder import Encoder
from objectives.collapse import feature_std
from objectives.draw import Draw
from objectives.gather import first_own_row, gather_candidates
from objectives.objective import Batch, Objective, Outcome
from objectives.photometry import byol_colours
from objectives.projector import projector
from objectives.schedule import cosine
from objectives.simclr import at_least_float32
from objectives.teacher import Teacher
from objectives.two_views import TwoViews
from objectives.views import Crops, CropScale
from ranges import Count, Positive, Share


class MoCoV3(Objective):
    """MoCo v3.

    Args:
        encoder: any image encoder; its pooled features enter the projector.
        spec: the opened data set.
        temperature: of the softmax over candidates (paper: 0.2 with vision transformers; its code: 1.0 with ResNet-50).
        momentum: share of its own weights that the copy keeps, at the beginning; at the end of the budget it is 1.
        projector_width, embedding_width, projector_depth: the projector (paper: 4096, 256, 3; 2 layers for ResNet-50). The
            predictor has two layers of the same widths, the last without batch norm where the encoder is no vision
            transformer (the authors' code).
        freeze_patches: leave the patch embedding of a vision transformer as it is initialised (section 4.2: without it
            training is unstable). Encoders with weights from elsewhere, and others than transformers, have none of this.
        crop_scale: area range of the random resized crop.
        view_size: side of the views in pixels; by default the image size.
    """

    modality = "image"
    needs = ("views",)
    smallest_batch = 2

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        temperature: Positive = 0.2,
        momentum: Share = 0.99,
        projector_width: Count = 4096,
        embedding_width: Count = 256,
        projector_depth: Count = 3,
        freeze_patches: bool = True,
        crop_scale: CropScale = (0.08, 1.0),
        view_size: Count | None = None,
    ):
        super().__init__(encoder)
        self.temperature, self.momentum = temperature, momentum
        self.two_views = TwoViews(encoder, spec, crop_scale, view_size, byol_colours(spec.image_size))
        hidden = [projector_width] * (projector_depth - 1)
        self.projector = projector([encoder.width, *hidden, embedding_width], last_norm="plain")
        net = getattr(encoder, "net", None)
        is_vit = isinstance(net, VisionTransformer)
        self.predictor = projector([embedding_width, projector_width, embedding_width], last_norm="plain" if is_vit else None)
        if is_vit and not encoder.pretrained:
            initialise(net, freeze_patches)
        self.teacher = Teacher(encoder, self.projector)

    def views(self) -> Crops:
        return self.two_views.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        first, second = (self.encoder.normalise(view) for view in self.two_views(batch, draw))
        features = [self.encoder.embed(view) for view in (first, second)]
        queries = [self.predictor(self.projector(feature_bD)) for feature_bD in features]
        keys = [self.teacher(view) for view in (first, second)]
        one, accuracy = contrast(queries[0], keys[1], self.temperature)
        other, accuracy_too = contrast(queries[1], keys[0], self.temperature)
        report = {"accuracy": (accuracy + accuracy_too) / 2, "feature_std": feature_std(features[0])}
        return Outcome(one + other, report)

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.projector, cosine(self.momentum, 1.0, progress))

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        return self.two_views.pictures(batch, draw)


def initialise(net: VisionTransformer, freeze_patches: bool) -> None:
    """Xavier, for queries, keys and values each on its own, and for the patch embedding as a matrix (the authors' code)."""
    named_apply(init_weights_vit_moco, net)
    projection = net.patch_embed.proj
    nn.init.xavier_uniform_(projection.weight.view(len(projection.weight), -1))
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)
    if net.cls_token is not None:
        nn.init.normal_(net.cls_token, std=1e-6)
    if freeze_patches:
        projection.requires_grad_(False)


def contrast(query_bE: Tensor, key_bE: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE of this rank's queries against the keys of all ranks, times 2 T (algorithm 1), in float32.

    Shape: query_bE, key_bE (b, E) in the same order, not yet normalised; keys get no gradient.

    Returns:
        (loss, accuracy): scalars; accuracy is the share of queries whose own key scores highest, detached.
    """
    with torch.autocast(query_bE.device.type, enabled=False):
        query_bE, key_bE = (F.normalize(at_least_float32(x), dim=1) for x in (query_bE, key_bE.detach()))
        logits = query_bE @ gather_candidates(key_bE).T / temperature  # (b, B)
        own = torch.arange(len(logits), device=logits.device) + first_own_row(len(logits))
        accuracy = (logits.detach().argmax(dim=1) == own).float().mean()
        return F.cross_entropy(logits, own) * 2 * temperature, accuracy
