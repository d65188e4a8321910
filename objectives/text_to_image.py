"""Text to image: a caption and its picture as one stream of tokens (Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation").

Stream:  the caption's tokens, a token that begins a picture, and the picture as whole numbers that a fixed tokenizer makes of
         it, row by row: another run's vector-quantised autoencoder (section 2.1).
Target:  the next token, of one vocabulary that holds first the text's and then the picture's. The losses of both kinds are
         means over their own targets, weighted 1/8 and 7/8 (section 2.2).

What is trained is the stream's transformer, and it is what transfers: as the text encoder that it is before a picture begins.
The picture's half of the vocabulary and the token that begins it are the objective's.

Departures: places between a caption's end and its picture are hidden, where the paper learns a token for each; attention is
full, as its sparse patterns are for streams ten times as long.

Shapes: B pairs, T places of a caption, N tokens of a picture, D width, V text tokens, K codes.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import pool_tokens
from models.text_encoder import TextEncoder, TextInputs
from objectives.autoencoder import PictureCodes
from objectives.collapse import entropy, feature_std
from objectives.distillation import FixedTeacher
from objectives.draw import Draw
from objectives.linear_cross_entropy import linear_cross_entropy
from objectives.objective import Batch, Likelihood, Objective, Outcome
from objectives.pictures import tile
from objectives.targets import mean_over_targets, share
from objectives.text_samples import TEMPERATURE, pick
from objectives.text_tables import in_a_table
from objectives.views import Crops, CropScale
from ranges import Share


class TextToImage(Objective):
    """An autoregressive model of captions and pictures.

    Args:
        encoder: with causal attention.
        spec: the opened data.
        tokenizer: folder of a finished run of objective=vector_quantised_autoencoder, on pictures of the same size.
        text_weight: of the text's loss; the picture's has the rest.
        crop_scale: area range of the random resized crop.
        flip: probability of a horizontal flip.

    Raises:
        BadInput: there is no such run, it made no tokenizer, or one of other pictures; or the encoder has too few positions.
    """

    modality = "image_text"
    encodes = "text"
    needs = ("views", "ids", "present")
    attention = "causal"
    shown = "val"

    def __init__(
        self,
        encoder: TextEncoder,
        spec: DataSpec,
        tokenizer: str,
        text_weight: Share = 0.125,
        crop_scale: CropScale = (0.9, 1.0),
        flip: Share = 0.0,
    ):
        super().__init__(encoder)
        if not 0 <= text_weight <= 1:
            raise BadInput(f"objective.text_weight must be between 0 and 1, not {text_weight}")
        self.tokenizer = PictureTokenizer(tokenizer, spec)
        self.text_weight, self.length, self.num_tokens = text_weight, spec.block_length, self.tokenizer.num_tokens
        self.crops = Crops(spec.image_size, scale=tuple(crop_scale), flip=flip)
        if self.length + self.num_tokens > encoder.max_length:
            raise BadInput(
                f"captions of {self.length} and pictures of {self.num_tokens} tokens do not fit the {encoder.max_length} "
                "positions of the model; set datamodule.max_length, or take a tokenizer with larger patches"
            )
        num_codes, width = self.tokenizer.num_codes, encoder.embedding_VD.shape[1]
        self.codes_KD, self.begin_D = (nn.Parameter(0.02 * torch.randn(*shape)) for shape in ((num_codes, width), (width,)))

    def views(self) -> Crops:
        return self.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        codes_BN = self.tokenizer(batch["views"][:, 0])
        ids_BT, present_BT, hidden_BSD = self.read(batch, codes_BN)
        text_nats, text_correct, num_text = self.predict_text(ids_BT, present_BT, hidden_BSD)
        nats, correct, num_codes = self.predict_codes(codes_BN, hidden_BSD)
        used_K = torch.bincount(codes_BN.flatten(), minlength=len(self.codes_KD)) / codes_BN.numel()
        report = {
            "accuracy": share(correct, num_codes),
            "text_accuracy": share(text_correct, num_text),
            "codes_used": entropy(used_K[None])[0].exp(),  # as if all of them were used alike
            "feature_std": feature_std(pool_tokens(hidden_BSD[:, : self.length], present_BT, "mean")),
        }
        text, picture = mean_over_targets(text_nats, num_text), mean_over_targets(nats, num_codes)
        return Outcome(self.text_weight * text + (1 - self.text_weight) * picture, report)

    def read(self, batch: Batch, codes_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(ids (B, T), present (B, T), hidden (B, T + N, D)): the last is what predicts the next token of the stream."""
        missing = self.length - batch["ids"].shape[1]
        ids_BT, present_BT = F.pad(batch["ids"], (0, missing)), F.pad(batch["present"], (0, missing))
        stream_BSD = torch.cat([self.beginning(ids_BT), self.codes_KD[codes_BN[:, :-1]]], dim=1)
        present_BS = F.pad(present_BT, (0, self.num_tokens), value=True)
        arguments = self.encoder.arguments(TextInputs(ids_BT, present_BS)) | {"input_ids": None, "inputs_embeds": stream_BSD}
        return ids_BT, present_BT, self.encoder.net(**arguments).last_hidden_state

    def beginning(self, ids_BT: Tensor) -> Tensor:
        """(B, T + 1, D): a caption, and the token that begins a picture."""
        embedded_BTD = self.encoder.net.get_input_embeddings()(ids_BT)
        return torch.cat([embedded_BTD, self.begin_D.expand(len(ids_BT), 1, -1)], dim=1)

    def predict_text(self, ids_BT: Tensor, present_BT: Tensor, hidden_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of nats, number right, number of targets) of the caption behind its first token."""
        target_BT = ids_BT[:, 1:].masked_fill(~present_BT[:, 1:], -100)
        return self._predict(hidden_BSD[:, : self.length - 1], target_BT)

    def predict_codes(self, codes_BN: Tensor, hidden_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of nats, number right, number of targets) of the picture."""
        return self._predict(hidden_BSD[:, self.length :], len(self.encoder.embedding_VD) + codes_BN)

    def _predict(self, hidden_BPD: Tensor, target_BP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        both_D = torch.cat([self.encoder.embedding_VD, self.codes_KD])  # (V + K, D): one vocabulary
        nats, correct = linear_cross_entropy(hidden_BPD.flatten(0, 1), both_D, None, target_BP.flatten())
        return nats, correct, (target_BP >= 0).sum()

    def likelihood(self, batch: Batch) -> Likelihood:
        """Of pictures in the tokenizer's codes, given their captions."""
        codes_BN = self.tokenizer(batch["views"][:, 0])
        nats, _, num_targets = self.predict_codes(codes_BN, self.read(batch, codes_BN)[2])
        return Likelihood("code_perplexity", nats, num_targets)

    @torch.no_grad()
    def generate(self, batch: Batch, uniform_BN: Tensor) -> Tensor:
        """(B, N) codes for captions, drawn one after the other by the random numbers given; each step reads one token."""
        missing = self.length - batch["ids"].shape[1]
        ids_BT, present_BS = F.pad(batch["ids"], (0, missing)), F.pad(batch["present"], (0, missing + 1))
        present_BS[:, -1] = True
        net, next_BSD, cache, codes = self.encoder.net, self.beginning(ids_BT), None, []
        for place in range(self.num_tokens):
            read = net(inputs_embeds=next_BSD, attention_mask=present_BS.long(), past_key_values=cache, use_cache=True)
            logits_BK = (read.last_hidden_state[:, -1] @ self.codes_KD.T).float()
            codes.append(pick(logits_BK / TEMPERATURE, uniform_BN[:, place]))
            next_BSD, cache = self.codes_KD[codes[-1]][:, None], read.past_key_values
            present_BS = F.pad(present_BS, (0, 1), value=True)
        return torch.stack(codes, dim=1)

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """Rows of (validation picture, what its codes make of it, what is drawn for its caption)."""
        views, codes_BN = batch["views"][:, 0], self.tokenizer(batch["views"][:, 0])
        drawn_BN = self.generate(batch, draw.uniform("picture", self.num_tokens))
        made = [self.tokenizer.pictures(ids_BN) for ids_BN in (codes_BN, drawn_BN)]
        return {"generated": tile(torch.stack([views.float().div(255), *made], dim=1))}

    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """The captions of the rows of `pictures`."""
        tokenizer = self.encoder.vocabulary.tokenizer
        rows = (f"| {row} | {in_a_table(tokenizer, ids)} |" for row, ids in enumerate(batch["ids"], 1))
        return {"captions": "\n".join(["| row | caption |", "|---|---|", *rows])}


class PictureTokenizer(nn.Module):
    """Another run's encoder, codebook and decoder, as they were exported; nothing of them is trained.

    Args:
        run: its folder.
        spec: of the data that it must read.

    Attributes:
        num_codes, num_tokens: K and N.
    """

    def __init__(self, run: str, spec: DataSpec):
        super().__init__()
        self.fixed = FixedTeacher(run, spec, "tokenizer")
        if not (Path(run) / "picture_codes.json").is_file():
            raise BadInput(
                f"objective.tokenizer='{run}' makes no whole numbers of pictures, as runs of "
                "objective=vector_quantised_autoencoder do"
            )
        encoder = self.fixed.encoder
        if encoder.image_size != spec.image_size:
            raise BadInput(
                f"objective.tokenizer='{run}' was trained on {encoder.image_size} px, not on {spec.image_size} px; "
                f"set datamodule.image_size={encoder.image_size}"
            )
        self.codes = PictureCodes.load(run, encoder).requires_grad_(False)
        self.num_codes = len(self.codes.codebook.codes_KZ)
        one = torch.zeros(1, spec.channels, spec.image_size, spec.image_size, dtype=torch.uint8)
        self.num_tokens = self(one).shape[1]

    @torch.no_grad()
    def forward(self, views: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> (B, N) int64."""
        return self.codes.codebook.ids(self.fixed.encoder(self.fixed.encoder.normalise(views)))

    @torch.no_grad()
    def pictures(self, ids_BN: Tensor) -> Tensor:
        """(B, N) -> (B, C, H, W) in [0, 1]."""
        return self.codes.pictures(ids_BN)
