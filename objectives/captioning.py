"""Captioning: a picture's caption from its tokens (Tschannen et al. 2023, "Image Captioners Are Scalable Vision Learners
Too", section 3).

Input:   a picture, slightly cropped, and for a decoder that attends to its tokens the caption so far (autoregressive, "Cap")
         or, for a share of the samples, nothing of the caption but places without an order of their own (parallel, "Pa").
Target:  every token of the caption behind its start.

With nothing of the caption to lean on, parallel prediction must take all of it from the picture. As there is nothing that a
place must not see, it has no causal mask: its places see each other, those behind the caption's end included, so that
how many there are does not tell how long the caption is.

Shapes: B pictures, N tokens of each, D encoder width, L tokens of the longest caption, Q = L - 1 places that predict, W decoder
width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder
from models.text_encoder import additive
from objectives.collapse import feature_std
from objectives.draw import Draw
from objectives.linear_cross_entropy import linear_cross_entropy
from objectives.objective import Batch, Likelihood, Objective, Outcome
from objectives.pictures import gallery
from objectives.targets import mean_over_targets, share
from objectives.text_tables import in_a_table
from objectives.views import Crops, CropScale
from ranges import Count, Share

HEAD = 64  # width of an attention head, as in vision transformers


class Captioning(Objective):
    """An encoder under a decoder of text.

    Args:
        encoder: any image encoder; its tokens are what the decoder attends to.
        spec: the opened data.
        parallel_share: of the samples whose caption is predicted in parallel (paper: 0.75); 0 is plain captioning.
        decoder_depth: blocks of the decoder (paper: 6).
        decoder_width: W; by default that of the encoder, as in the paper.
        crop_scale: area range of the random resized crop.
        flip: probability of a horizontal flip.

    Raises:
        BadInput: a share that is none, or a tokenizer without a token that starts a text.
    """

    modality = "image_text"
    encodes = "image"
    needs = ("views", "ids", "present")
    shown = "val"

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        parallel_share: Share = 0.75,
        decoder_depth: Count = 6,
        decoder_width: Count | None = None,
        crop_scale: CropScale = (0.9, 1.0),
        flip: Share = 0.0,
    ):
        super().__init__(encoder)
        if not 0 <= parallel_share <= 1:
            raise BadInput(f"objective.parallel_share must be between 0 and 1, not {parallel_share}")
        if spec.vocabulary.start is None:
            raise BadInput("objective=captioning: this tokenizer has no token that starts a text; fits: one trained here")
        self.parallel_share, self.length = parallel_share, spec.block_length
        self.tokenizer, self.start, self.end = spec.vocabulary.tokenizer, spec.vocabulary.start, spec.vocabulary.end
        self.crops = Crops(spec.image_size, scale=tuple(crop_scale), flip=flip)
        width = decoder_width or encoder.width
        self.decoder = make_decoder(spec, width, decoder_depth)
        self.bridge = nn.Identity() if width == encoder.width else nn.Linear(encoder.width, width)
        self.mask_W = nn.Parameter(0.02 * torch.randn(width))

    def views(self) -> Crops:
        return self.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        parallel_B = draw.uniform("parallel", 1)[:, 0] < self.parallel_share
        features = self.encoder(self.encoder.normalise(batch["views"][:, 0]))
        nats, correct, num_targets = self.predict(features.tokens, batch, parallel_B)
        report = {"accuracy": share(correct, num_targets), "feature_std": feature_std(features.pooled)}
        return Outcome(mean_over_targets(nats, num_targets), report)

    def predict(self, tokens_BND: Tensor, batch: Batch, parallel_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of nats, number right, number of targets).

        Places are those of the longest caption that there may be: what a sample costs and gives does not depend on the
        captions beside it.
        """
        missing = self.length - batch["ids"].shape[1]
        ids_BL = F.pad(batch["ids"], (0, missing))
        present_BL = F.pad(batch["present"], (0, missing))
        target_BQ = ids_BL[:, 1:].masked_fill(~present_BL[:, 1:], -100)
        hidden_BQW = self.decode(tokens_BND, ids_BL[:, :-1], parallel_B)
        nats, correct = linear_cross_entropy(hidden_BQW.flatten(0, 1), self.decoder.wte.weight, None, target_BQ.flatten())
        return nats, correct, (target_BQ >= 0).sum()

    def decode(self, tokens_BND: Tensor, ids_BQ: Tensor, parallel_B: Tensor) -> Tensor:
        """(B, Q, W): at each place what predicts the next token."""
        places = ids_BQ.shape[1]
        embedded_BQW = torch.where(parallel_B[:, None, None], self.mask_W, self.decoder.wte(ids_BQ))
        causal_QQ = torch.ones(places, places, dtype=torch.bool, device=ids_BQ.device).tril()
        return self.decoder(
            inputs_embeds=embedded_BQW,
            attention_mask=additive(causal_QQ | parallel_B[:, None, None]),
            encoder_hidden_states=self.bridge(tokens_BND).contiguous(),  # GPT-2 takes views of it
            use_cache=False,
        ).last_hidden_state

    def likelihood(self, batch: Batch) -> Likelihood:
        """Of the caption, token after token."""
        tokens_BND = self.encoder(self.encoder.inputs(batch)).tokens
        nats, _, num_targets = self.predict(tokens_BND, batch, torch.zeros_like(batch["index"], dtype=torch.bool))
        return Likelihood("caption_perplexity", nats, num_targets)

    @torch.no_grad()
    def captions(self, views: Tensor) -> Tensor:
        """(B, up to L) ids: of pictures (B, C, H, W) the likeliest next token again and again; what follows an end is void."""
        tokens_BND = self.encoder(self.encoder.normalise(views)).tokens
        ids_BL = torch.full((len(views), 1), self.start, device=views.device)
        one_by_one_B = torch.zeros(len(views), dtype=torch.bool, device=views.device)
        while ids_BL.shape[1] < self.length and not (ids_BL[:, 1:] == self.end).any(dim=1).all():
            hidden_BW = self.decode(tokens_BND, ids_BL, one_by_one_B)[:, -1]
            ids_BL = torch.cat([ids_BL, (hidden_BW @ self.decoder.wte.weight.T).argmax(dim=1, keepdim=True)], dim=1)
        return ids_BL

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The validation pictures whose captions `texts` writes."""
        return {"views": gallery(batch["views"][:, 0])}

    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """For validation pictures their caption, and the one that the decoder writes."""
        rows = [
            f"| {in_a_table(self.tokenizer, own)} | {in_a_table(self.tokenizer, until_end(written, self.end))} |"
            for own, written in zip(batch["ids"], self.captions(batch["views"][:, 0]), strict=True)
        ]
        return {"captions": "\n".join(["| caption | written |", "|---|---|", *rows])}


def make_decoder(spec: DataSpec, width: int, depth: int) -> GPT2Model:
    """A decoder of text in GPT-2's architecture (norms before the layers) that attends to something else, too."""
    if width < 1 or depth < 1:
        raise BadInput(f"objective.decoder_width and decoder_depth must be positive, not {width} and {depth}")
    config = GPT2Config(
        vocab_size=spec.vocabulary.size,
        n_positions=spec.block_length,
        n_embd=width,
        n_layer=depth,
        n_head=num_heads(width),
        activation_function="gelu_pytorch_tanh",
        add_cross_attention=True,
        bos_token_id=spec.vocabulary.start,
        eos_token_id=spec.vocabulary.end,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2Model(config)


def num_heads(width: int) -> int:
    """Of attention: as many as can be without any narrower than 64, and at least one."""
    return max(heads for heads in range(1, max(1, width // HEAD) + 1) if width % heads == 0)


def until_end(ids_L: Tensor, end: int) -> Tensor:
    """What stands before the first end token behind the first place."""
    found = (ids_L[1:] == end).nonzero()
    return ids_L[: 1 + int(found[0])] if len(found) else ids_L
