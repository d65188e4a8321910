"""Flamingo: a language model that is shown pictures (Alayrac et al. 2022, "Flamingo: a Visual Language Model for Few-Shot
Learning", section 2).

Input:   rows of several pictures, each followed by its caption: the sample's own at the end and before it others of the batch,
         as examples ("shots").
Target:  the next token of every caption, given its own picture and everything written before.

The image tower and the language model come from other runs and stay as they are. Trained are a resampler, which sums up a
picture in a few vectors (section 2.1), and before each block of the language model a layer that attends to those of the
picture that stands before a token (sections 2.2 and 2.3). Its gates are closed at the start: the language model then writes
what it wrote without pictures.

Departures: pictures have no times; a caption's own start and end tokens take the places of <image> and <EOC>.

Shapes: b samples on this rank, B on all ranks, S pairs a row (S - 1 shots), L tokens of the longest caption, N tokens of a
picture, M vectors that sum it up, D width of the image tower, W of the language model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder
from models.export import load_encoder
from models.text_encoder import TextEncoder, TextInputs
from objectives.captioning import until_end
from objectives.collapse import feature_std
from objectives.draw import Draw
from objectives.gated_attention import GatedLayer, Resampler
from objectives.gather import first_own_row, gather_candidates, gather_rows
from objectives.linear_cross_entropy import linear_cross_entropy
from objectives.objective import Batch, Likelihood, Objective, Outcome
from objectives.pictures import gallery
from objectives.targets import mean_over_targets, share
from objectives.text_tables import in_a_table
from objectives.views import Crops, CropScale
from ranges import Count, CountOr0, Share


class Flamingo(Objective):
    """A resampler and gated layers between two networks that stay as they are.

    Args:
        encoder: the image tower, with weights of another run.
        spec: the opened data, with the language model's tokenizer.
        text: folder of a finished run of objective=causal_lm.
        shots: pairs before a sample's own in training and, beside none, in evaluation.
        num_latents: M (paper: 64).
        resampler_depth: layers of the resampler (paper: 6).
        crop_scale: area range of the random resized crop.
        flip: probability of a horizontal flip.

    Raises:
        BadInput: there is no such run, or its model is no causal one, has another tokenizer, or too few positions.
    """

    modality = "image_text"
    encodes = "image"
    keeps_encoder = True
    needs = ("views", "ids", "present")
    shown = "val"

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        text: str,
        shots: CountOr0 = 3,
        num_latents: Count = 16,
        resampler_depth: Count = 2,
        crop_scale: CropScale = (0.9, 1.0),
        flip: Share = 0.0,
    ):
        super().__init__(encoder)
        if shots < 0 or num_latents < 1 or resampler_depth < 1:
            raise BadInput(
                "objective.shots must be 0 or more, num_latents and resampler_depth 1 or more, "
                f"not {shots}, {num_latents} and {resampler_depth}"
            )
        self.shots, self.crops = shots, Crops(spec.image_size, scale=tuple(crop_scale), flip=flip)
        self.text_encoder = language_model(text, spec, shots + 1)
        for fixed in (self.encoder, self.text_encoder):
            fixed.requires_grad_(False)
        self.resampler = Resampler(encoder.width, num_latents, resampler_depth)
        width = self.text_encoder.embedding_VD.shape[1]
        self.layers = nn.ModuleList(GatedLayer(width, encoder.width) for _ in self.text_encoder.blocks)
        self.train()

    def train(self, mode: bool = True) -> "Flamingo":
        super().train(mode)
        for fixed in (self.encoder, self.text_encoder):
            fixed.eval()
        return self

    def check_batch(self, batch_size: int) -> None:
        if batch_size <= self.shots:
            raise BadInput(f"objective.shots={self.shots} are other samples of the batch: datamodule.batch_size={batch_size}")

    def views(self) -> Crops:
        return self.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        latents_bMD = self.sum_up(batch["views"][:, 0])
        rows = self.rows_of_the_batch(latents_bMD, batch, draw) if self.shots else alone(latents_bMD, batch)
        nats, correct, num_targets = self.predict(*rows)
        report = {
            "accuracy": share(correct, num_targets),
            "gate": torch.cat([gate for layer in self.layers for gate in layer.gates()]).detach().abs().mean(),
            "feature_std": feature_std(latents_bMD.mean(dim=1)),
        }
        return Outcome(mean_over_targets(nats, num_targets), report)

    def sum_up(self, views: Tensor) -> Tensor:
        """(b, M, D) of pictures (b, C, H, W)."""
        with torch.no_grad():
            tokens_bND = self.encoder(self.encoder.normalise(views)).tokens
        return self.resampler(tokens_bND)

    def rows_of_the_batch(self, latents_bMD: Tensor, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """Rows for `predict`: each sample behind those before it in a ring through the whole batch, whose order is drawn."""
        length = int(gather_rows(torch.tensor([batch["ids"].shape[1]], device=latents_bMD.device)).max())
        missing = length - batch["ids"].shape[1]
        everything = [gather_candidates(latents_bMD)]
        everything += [gather_rows(F.pad(batch[name], (0, missing)).long()) for name in ("ids", "present")]
        ring_B = gather_rows(draw.bits("ring", 1)[:, 0]).argsort()
        own_b = first_own_row(len(latents_bMD)) + torch.arange(len(latents_bMD), device=ring_B.device)
        row_bS = behind_others(ring_B, self.shots)[own_b]
        latents, ids, present = (part[row_bS] for part in everything)
        return latents, ids, present.bool()

    def predict(
        self, latents_bSMD: Tensor, ids_bSL: Tensor, present_bSL: Tensor, only_last: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of nats, number right, number of targets) of all captions in the rows, or of the last ones."""
        hidden_bSLW = self.read(latents_bSMD, ids_bSL, present_bSL)
        target_bSQ = ids_bSL[:, :, 1:].masked_fill(~present_bSL[:, :, 1:], -100)
        if only_last:
            hidden_bSLW, target_bSQ = hidden_bSLW[:, -1:], target_bSQ[:, -1:]
        hidden_NW = hidden_bSLW[:, :, :-1].flatten(0, 2)
        nats, correct = linear_cross_entropy(hidden_NW, self.text_encoder.embedding_VD, None, target_bSQ.flatten())
        return nats, correct, (target_bSQ >= 0).sum()

    def read(self, latents_bSMD: Tensor, ids_bSL: Tensor, present_bSL: Tensor) -> Tensor:
        """(b, S, L, W): at each place what predicts the next token, given what stands before it in the row."""
        present_bT = present_bSL.flatten(1)
        positions_bT = (present_bT.cumsum(dim=1) - 1).clamp(min=0)  # padding between captions takes none
        with self.shown_pictures(latents_bSMD):
            hidden_bTW = self.text_encoder(TextInputs(ids_bSL.flatten(1), present_bT, None, positions_bT)).tokens
        return hidden_bTW.unflatten(1, ids_bSL.shape[1:])

    @contextmanager
    def shown_pictures(self, latents_bSMD: Tensor) -> Iterator[None]:
        """While this lasts, what enters each block of the language model has passed its gated layer."""
        pairs, latents_PMD = latents_bSMD.shape[1], latents_bSMD.flatten(0, 1)

        def before(layer: GatedLayer) -> Callable[[nn.Module, tuple], tuple]:
            def look(block: nn.Module, arguments: tuple) -> tuple:
                hidden_bTW, *others = arguments
                hidden_PLW = hidden_bTW.unflatten(1, (pairs, -1)).flatten(0, 1)  # a caption sees its own picture alone
                return layer(hidden_PLW, latents_PMD).view_as(hidden_bTW), *others

            return look

        handles = [
            block.register_forward_pre_hook(before(layer))
            for block, layer in zip(self.text_encoder.blocks, self.layers, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def likelihood(self, batch: Batch) -> tuple[Likelihood, ...]:
        """Of the captions alone, and behind other pairs of the batch."""
        latents_bMD = self.sum_up(batch["views"][:, 0])
        found = {"caption_perplexity": alone(latents_bMD, batch)}
        if self.shots:
            found[f"caption_perplexity_{self.shots}_shots"] = behind_fixed_others(latents_bMD, batch, self.shots)
        return tuple(
            Likelihood(kind, nats, num_targets)
            for kind, rows in found.items()
            for nats, _, num_targets in [self.predict(*rows, only_last=True)]
        )

    @torch.no_grad()
    def captions(self, latents_bSMD: Tensor, ids_bSL: Tensor, present_bSL: Tensor) -> Tensor:
        """(b, L) ids: after each row's other pairs the likeliest next token again and again; what follows an end is void."""
        ids_bSL, present_bSL = ids_bSL.clone(), present_bSL.clone()
        present_bSL[:, -1, 1:] = False
        for place in range(1, ids_bSL.shape[2]):
            hidden_bW = self.read(latents_bSMD, ids_bSL, present_bSL)[:, -1, place - 1]
            ids_bSL[:, -1, place] = (hidden_bW @ self.text_encoder.embedding_VD.T).argmax(dim=1)
            present_bSL[:, -1, place] = True
        return ids_bSL[:, -1]

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The validation pictures whose captions `texts` writes."""
        return {"views": gallery(batch["views"][:, 0])}

    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """For validation pictures their caption, and what is written about them without and with examples."""
        latents_bMD = self.sum_up(batch["views"][:, 0])
        tokenizer, end = self.text_encoder.vocabulary.tokenizer, self.text_encoder.vocabulary.end
        ways = [alone(latents_bMD, batch), behind_fixed_others(latents_bMD, batch, self.shots)]
        columns = [batch["ids"], *(self.captions(*rows) for rows in ways)]
        rows = (
            f"| {' | '.join(in_a_table(tokenizer, until_end(ids, end)) for ids in row)} |" for row in zip(*columns, strict=True)
        )
        head = f"| caption | written | after {self.shots} shots |"
        return {"captions": "\n".join([head, "|---|---|---|", *rows])}


def language_model(run: str, spec: DataSpec, pairs: int) -> TextEncoder:
    """The text encoder of a run, if it can write the captions of these data, so many in a row.

    Raises:
        BadInput: it cannot.
    """
    paired = (Path(run) / "pair.json").is_file()
    found = load_encoder(run, "text_encoder" if paired else "encoder")
    if found.modality != "text" or not found.causal or paired:
        kind = (
            "of two towers" if paired else f"on {found.modality}" + ("" if found.modality != "text" else ", not a causal one")
        )
        raise BadInput(f"objective.text='{run}' is a run {kind}; fits: a run of objective=causal_lm")
    theirs, ours = (vocabulary.tokenizer.get_vocab() for vocabulary in (found.vocabulary, spec.vocabulary))
    if theirs != ours or found.vocabulary.start != spec.vocabulary.start or found.vocabulary.end != spec.vocabulary.end:
        raise BadInput(
            f"objective.text='{run}' writes with another tokenizer than '{spec.name}' has; set datamodule.tokenizer.path={run}"
        )
    if spec.vocabulary.start is None:
        raise BadInput("objective=flamingo: this tokenizer has no token that starts a text; fits: one trained here")
    if pairs * spec.block_length > found.max_length:
        raise BadInput(
            f"{pairs} captions of {spec.block_length} tokens do not fit the {found.max_length} positions of objective.text; "
            "set objective.shots or datamodule.max_length"
        )
    return found


def behind_others(ring_B: Tensor, shots: int) -> Tensor:
    """(B, shots + 1): for each sample those that precede it in a ring, and itself at the end.

    Args:
        ring_B: the samples' numbers in the order of the ring.
    """
    back_S = torch.arange(-shots, 1, device=ring_B.device)
    place_B = ring_B.argsort()
    return ring_B[(place_B[:, None] + back_S) % len(ring_B)]


def alone(latents_bMD: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Rows for `Flamingo.predict` of one pair each."""
    return latents_bMD[:, None], batch["ids"][:, None], batch["present"][:, None]


def behind_fixed_others(latents_bMD: Tensor, batch: Batch, shots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows for `Flamingo.predict` in which other pairs stand before each sample, as many as there are.

    Which ones depends on the samples' numbers alone, and not on their order: neighbours in a data set are often alike.
    """
    ring_b = Draw(0, torch.zeros_like(batch["index"]), batch["index"]).bits("ring", 1)[:, 0].argsort()
    row_bS = behind_others(ring_b, min(shots, len(ring_b) - 1))
    return latents_bMD[row_bS], batch["ids"][row_bS], batch["present"][row_bS]
