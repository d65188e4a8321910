"""Replaced-token detection (Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators").

Noise:  15 % of the ordinary tokens; 85 % of them become [MASK], the others stay as they are (the authors' code).
Input:  a small generator, trained as a masked language model, fills the noisy places with tokens that it finds likely.
Target: for every token of the row: is it another one than in the original? The encoder is the discriminator.

The loss is the generator's plus 50 times the discriminator's; no gradient flows through the sampling.

Shapes: B rows, L tokens a row, K places for noisy tokens a row, D width, V vocabulary.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput, nearest
from models.last_layer import hidden_at
from models.text_encoder import TextEncoder
from models.text_nets import make_generator
from objectives.draw import Draw
from objectives.mlm import fixed_mask
from objectives.objective import Batch, Likelihood, Objective, Outcome
from objectives.targets import mean_over_targets, share
from objectives.text_samples import pick
from objectives.text_tables import TextTables
from objectives.token_head import TokenHead
from objectives.token_noise import Noise, choose_tokens, hide, noise_count
from ranges import NotNegative, OpenShare, Positive, Share

SHARINGS = ("full", "disentangled")
UNUSED = -100  # the target of a place that no noise has taken


class ReplacedTokenDetection(Objective):
    """RTD.

    Args:
        encoder: of BERT's or ModernBERT's architecture; it is the discriminator.
        spec: the opened data.
        mask_ratio: share of the ordinary tokens that the generator fills in.
        generator_width: of the generator, as a share of the encoder's; its depth is the encoder's.
        weight: of the discriminator's loss.
        temperature: of the generator's samples.
        masked: share of the noisy places that become [MASK]; 0.85 is ELECTRA's, 1.0 DeBERTa-V3's.
        sharing: "full" is one embedding layer for both networks, trained by both losses. "disentangled" is DeBERTa-V3's
            (He et al. 2023, section 3.2): the discriminator's token and position embeddings are the generator's, without
            gradient, plus a difference of their own that begins at zero.
    """

    modality = "text"
    needs = ("ids",)
    attention = "bidirectional"

    def __init__(
        self,
        encoder: TextEncoder,
        spec: DataSpec,
        mask_ratio: OpenShare = 0.15,
        generator_width: Positive = 0.25,
        weight: NotNegative = 50.0,
        temperature: Positive = 1.0,
        masked: Share = 0.85,
        sharing: str = "full",
    ):
        super().__init__(encoder)
        if sharing not in SHARINGS:
            raise BadInput(f"there is no objective.sharing '{sharing}'; {nearest(sharing, SHARINGS)}")
        self.mask_ratio, self.weight, self.temperature, self.masked = mask_ratio, weight, temperature, masked
        self.tables = TextTables(spec)
        self.tables.need_mask("rtd")
        shared = getattr(encoder.net, "embeddings", None)
        if sharing == "disentangled":
            shared = copy.deepcopy(shared)
        self.generator = make_generator(encoder.net, generator_width, shared, encoder.dropout)
        self.head = TokenHead(self.generator.config.hidden_size, encoder.embedding_VD)
        self.detector = nn.Sequential(nn.Linear(encoder.width, encoder.width), nn.GELU(), nn.Linear(encoder.width, 1))
        for layer in (self.detector[0], self.detector[2]):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.disentangled = _Disentangled(self) if sharing == "disentangled" else None

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        ids_BL = batch["ids"]
        noise = self.choose(ids_BL, draw)
        seen_BL = hide(draw, ids_BL, noise, self.tables.mask, self.tables.ordinary_ids, masked=self.masked, random=0.0)
        logits_BKV = self.generate(batch, seen_BL, noise)
        target_BK = ids_BL.gather(1, noise.place_BK)
        used_BK, num_targets = noise.used_BK, noise.used_BK.sum()
        asked_BK = target_BK.masked_fill(~used_BK, UNUSED)  # a GPU would wait to hear how many there are
        nats = F.cross_entropy(logits_BKV.flatten(0, 1), asked_BK.flatten(), ignore_index=UNUSED, reduction="sum")
        generator_loss = mean_over_targets(nats, num_targets)

        sampled_BK = pick(logits_BKV.detach() / self.temperature, draw.uniform("sample", noise.place_BK.shape[1]))
        filled_BL = ids_BL.scatter(1, noise.place_BK, torch.where(used_BK, sampled_BK, target_BK))
        replaced_BL = filled_BL != ids_BL  # a sample that hits the original is no replacement
        score_BL = self.detect(batch, filled_BL)
        real_BL = batch["present"] if "present" in batch else torch.ones_like(replaced_BL)
        detection = F.binary_cross_entropy_with_logits(score_BL, replaced_BL.float(), reduction="none")
        detection_loss = mean_over_targets((detection * real_BL).sum(), real_BL.sum())
        report = {"generator_loss": generator_loss.detach(), "detection_loss": detection_loss.detach()}
        report["generator_accuracy"] = share(((logits_BKV.argmax(-1) == target_BK) & used_BK).sum(), num_targets)
        report |= detection_report(score_BL.detach() > 0, replaced_BL, real_BL)
        return Outcome(generator_loss + self.weight * detection_loss, report)

    def choose(self, ids_BL: Tensor, draw: Draw) -> Noise:
        """The places that the generator fills in; unlike the authors' code none is drawn twice."""
        candidate_BL = self.tables.ordinary(ids_BL)
        count_B = noise_count(self.mask_ratio, candidate_BL)
        return choose_tokens(draw, candidate_BL, count_B, max(1, round(self.mask_ratio * ids_BL.shape[1])))

    def generate(self, batch: Batch, seen_BL: Tensor, noise: Noise) -> Tensor:
        """The generator's logits at the noisy places, (B, K, V) float32."""
        inputs = self.encoder.inputs({**batch, "ids": seen_BL})
        hidden_BKD = hidden_at(self.generator, self.encoder.arguments(inputs), noise.place_BK)
        return self.head.logits(hidden_BKD, self.generator.get_input_embeddings().weight)

    def detect(self, batch: Batch, filled_BL: Tensor) -> Tensor:
        """(B, L) float32: how much each token looks like a replacement."""
        hidden_BLD = self.encoder(self.encoder.inputs({**batch, "ids": filled_BL})).tokens
        return self.detector(hidden_BLD).squeeze(-1).float()

    def after_step(self, progress: float) -> None:
        if self.disentangled is not None:
            self.disentangled.follow(self)

    def likelihood(self, batch: Batch) -> Likelihood:
        """The generator's pseudo-perplexity at the fixed mask, a number of its own: the encoder itself predicts no tokens."""
        noise, seen_BL = fixed_mask(self.tables, batch)
        logits_BKV, target_BK = self.generate(batch, seen_BL, noise), batch["ids"].gather(1, noise.place_BK)
        nats = F.cross_entropy(logits_BKV[noise.used_BK], target_BK[noise.used_BK], reduction="sum")
        return Likelihood("generator_pseudo_perplexity", nats, noise.used_BK.sum())

    @torch.no_grad()
    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """Some rows as the encoder sees them; replaced tokens as truth -> sample, with * where the encoder noticed."""
        ids_BL, noise = batch["ids"], self.choose(batch["ids"], draw)
        seen_BL = hide(draw, ids_BL, noise, self.tables.mask, self.tables.ordinary_ids, masked=self.masked, random=0.0)
        logits_BKV = self.generate(batch, seen_BL, noise)
        sampled_BK = pick(logits_BKV / self.temperature, draw.uniform("sample", noise.place_BK.shape[1]))
        filled_BL = ids_BL.scatter(1, noise.place_BK, torch.where(noise.used_BK, sampled_BK, ids_BL.gather(1, noise.place_BK)))
        found_BL = self.detect(batch, filled_BL) > 0
        rows, text = [], self.tables.text
        for ids, filled, found in zip(ids_BL, filled_BL, found_BL, strict=True):
            changed = [
                f"{text(ids[i, None])} -> {text(filled[i, None])}{' *' if found[i] else ''}"
                for i in (ids != filled).nonzero().flatten().tolist()
            ]
            rows.append(f"    {text(filled)}\n\n    {', '.join(changed)}")
        return {"replaced_tokens": "\n\n---\n\n".join(rows)}


def detection_report(found_BL: Tensor, replaced_BL: Tensor, real_BL: Tensor) -> dict[str, Tensor]:
    """Share of replaced tokens, and precision and recall of finding them."""
    hits = (found_BL & replaced_BL & real_BL).sum()
    return {
        "replaced": share((replaced_BL & real_BL).sum(), real_BL.sum()),
        "precision": share(hits, (found_BL & real_BL).sum()),
        "recall": share(hits, (replaced_BL & real_BL).sum()),
    }


class _Disentangled(nn.Module):
    """Keeps the discriminator's embeddings at (generator's without gradient + its own difference).

    The encoder's tables hold that sum, so that the encoder is whole at any time. Their gradient is the difference's; after
    every optimiser step the generator's own movement is added to them. They have no weight decay, which would pull the sum to
    zero, and so the difference to minus the generator's table.
    """

    def __init__(self, objective: ReplacedTokenDetection):
        super().__init__()
        for name, (theirs, own) in self._pairs(objective).items():
            # a weight that is not trained rather than a buffer: it is sharded as the others are
            self.register_parameter(name, nn.Parameter(theirs.weight.detach().clone(), requires_grad=False))
            own.decays = False

    @staticmethod
    def _pairs(objective: ReplacedTokenDetection) -> dict[str, tuple[nn.Embedding, nn.Embedding]]:
        theirs, own = _tables(objective.generator.embeddings), _tables(objective.encoder.net.embeddings)
        return {name: (theirs[name], own[name]) for name in own}

    @torch.no_grad()
    def follow(self, objective: ReplacedTokenDetection) -> None:
        """Add what the generator's embeddings moved since the last call."""
        for name, (theirs, own) in self._pairs(objective).items():
            before = getattr(self, name)
            own.weight += theirs.weight - before
            before.copy_(theirs.weight)


def _tables(embeddings: nn.Module) -> dict[str, nn.Embedding]:
    """The tables of tokens and of positions inside an embedding layer."""
    found = {name.rpartition(".")[2]: module for name, module in embeddings.named_modules() if isinstance(module, nn.Embedding)}
    return {name: found[name] for name in ("word_embeddings", "position_embeddings", "tok_embeddings") if name in found}
