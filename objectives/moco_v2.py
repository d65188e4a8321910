"""MoCo v2 (Chen et al. 2020, "Improved Baselines with Momentum Contrastive Learning"; He et al. 2020, "MoCo", section 3).

Query:      one augmented view of a picture, through the encoder.
Positive:   the other view of the same picture, through a momentum copy of the encoder.
Negatives:  a queue of the momentum copy's latest outputs, but for those of the same picture: where there are few pictures,
            the queue still holds what the epoch before made of them.

The authors shuffle pictures between GPUs, because batch norm would tell which key belongs to the batch. Here the momentum
copy normalises by averaged statistics instead (`teacher.py`), so nothing leaks and nothing is shuffled.

Shapes: b pictures on this rank, B on all ranks, K keys in the queue, D encoder width, E embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder
from objectives.collapse import feature_std
from objectives.draw import Draw
from objectives.gather import gather_rows
from objectives.objective import Batch, Objective, Outcome
from objectives.photometry import SMALL_IMAGE, Photometry
from objectives.projector import projector
from objectives.simclr import at_least_float32
from objectives.teacher import Teacher
from objectives.two_views import TwoViews
from objectives.views import Crops, CropScale
from ranges import Count, Positive, Share


class MoCoV2(Objective):
    """MoCo v2.

    Args:
        encoder: any image encoder; its pooled features enter the projector.
        spec: the opened data set.
        temperature: of the softmax over positive and queue.
        queue_size: K, how many keys are negatives (paper: 65,536); a multiple of the batch.
        momentum: share of its own weights that the copy keeps each step (paper: 0.999 over 200 ImageNet epochs).
        projector_width, embedding_width: the projector, two linear layers with ReLU between them.
        crop_scale: area range of the random resized crop.
        view_size: side of the views in pixels; by default the image size.
    """

    modality = "image"
    needs = ("views",)

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        temperature: Positive = 0.2,
        queue_size: Count = 65536,
        momentum: Share = 0.999,
        projector_width: Count = 2048,
        embedding_width: Count = 128,
        crop_scale: CropScale = (0.2, 1.0),
        view_size: Count | None = None,
    ):
        super().__init__(encoder)
        self.temperature, self.momentum = temperature, momentum
        colours = Photometry(0.4, 0.4, 0.4, 0.1, blur=0.0 if spec.image_size <= SMALL_IMAGE else 0.5)
        self.two_views = TwoViews(encoder, spec, crop_scale, view_size, (colours, colours))
        self.projector = projector([encoder.width, projector_width, embedding_width], norm=False)
        self.teacher = Teacher(encoder, self.projector, norm="average")
        self.queue = Queue(queue_size, embedding_width)

    def check_batch(self, batch_size: int) -> None:
        super().check_batch(batch_size)
        size = len(self.queue.keys_KE)
        if size < batch_size or size % batch_size:
            near = max(batch_size, round(size / batch_size) * batch_size)
            raise BadInput(
                f"objective.queue_size={size} is not a multiple of datamodule.batch_size={batch_size}; nearest: {near}"
            )

    def views(self) -> Crops:
        return self.two_views.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        query_view, key_view = (self.encoder.normalise(view) for view in self.two_views(batch, draw))
        feature_bD = self.encoder.embed(query_view)
        query_bE = self.projector(feature_bD)
        key_bE = F.normalize(at_least_float32(self.teacher(key_view)), dim=1)
        own_bK = batch["index"][:, None] == self.queue.picture_K
        loss, accuracy = contrast_with_queue(query_bE, key_bE, self.queue.keys_KE, own_bK, self.temperature)
        if torch.is_grad_enabled():  # a step, or a part of one
            self.queue.hold(key_bE, batch["index"])
        return Outcome(loss, {"accuracy": accuracy, "feature_std": feature_std(feature_bD)})

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.projector, self.momentum)
        self.queue.push()

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        return self.two_views.pictures(batch, draw)


class Queue(torch.nn.Module):
    """A ring of the latest keys of all ranks; at first random directions, as the authors have it.

    Keys wait until the step is done: the backward pass still needs the ring as it was.

    Args:
        size: K.
        width: E.
    """

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("keys_KE", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("picture_K", torch.full((size,), -1))  # of which picture each key is
        self.register_buffer("next", torch.zeros(1, dtype=torch.long))  # the place that is overwritten next
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def hold(self, key_bE: Tensor, picture_b: Tensor) -> None:
        """Gather the keys of this rank's batch with those of the others."""
        self.waiting.append((gather_rows(key_bE.detach()), gather_rows(picture_b)))

    def push(self) -> None:
        """Overwrite the oldest keys by what was held."""
        for key_BE, picture_B in self.waiting:
            place = (self.next + torch.arange(len(key_BE), device=key_BE.device)) % len(self.keys_KE)
            self.keys_KE[place] = key_BE.to(self.keys_KE.dtype)
            self.picture_K[place] = picture_B
            self.next.copy_((self.next + len(key_BE)) % len(self.keys_KE))
        self.waiting.clear()


def contrast_with_queue(
    query_bE: Tensor, key_bE: Tensor, queue_KE: Tensor, own_bK: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """InfoNCE (equation 1) of each query against its own key and the queue, in float32 whatever the autocast precision.

    Shape:
        query_bE, key_bE: (b, E) in the same order; they are normalised here.
        queue_KE: (K, E) of unit length.
        own_bK: (b, K), where the queue holds a key of the query's own picture, which is no negative.

    Returns:
        (loss, accuracy): scalars; accuracy is the share of queries whose own key scores highest, detached.
    """
    with torch.autocast(query_bE.device.type, enabled=False):
        query_bE, key_bE = (F.normalize(at_least_float32(x), dim=1) for x in (query_bE, key_bE))
        positive = (query_bE * key_bE).sum(dim=1, keepdim=True)
        negative = (query_bE @ queue_KE.T).masked_fill(own_bK, float("-inf"))
        logits = torch.cat([positive, negative], dim=1) / temperature  # (b, 1 + K)
        target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        return F.cross_entropy(logits, target), (logits.detach().argmax(dim=1) == 0).float().mean()
