"""Span corruption (Raffel et al. 2020, "T5", section 3.1.4), and mixtures of denoisers (Tay et al. 2022, "UL2", table 1).

Noise:  spans of tokens, 15 % of the row, 3 tokens long on average; or what a denoiser of the mixture says, drawn for each row.
Input:  the row with one sentinel for each span, to the encoder.
Target: sentinel, tokens, sentinel, tokens ..., from the decoder, one token after the other.

UL2's mode tokens [R], [X] and [S] before the input are left out: nothing but the noise itself says which denoiser it is of.

Shapes: B rows, T raw tokens a row, I input tokens, O output tokens, D width.
"""

import torch
from torch import Tensor

from datamodules.spec import DataSpec
from errors import BadInput
from models.text_encoder import TextEncoder, TextInputs
from models.text_nets import make_decoder
from objectives.draw import Draw
from objectives.linear_cross_entropy import linear_cross_entropy
from objectives.objective import Batch, Likelihood, Objective, Outcome
from objectives.span_noise import Denoiser, DenoiserSettings, split_by_mask
from objectives.targets import mean_over_targets, share
from objectives.text_tables import TextTables


class SpanCorruption(Objective):
    """Encoder-decoder denoising.

    Args:
        encoder: the encoder half of an encoder-decoder architecture; the decoder belongs to the objective.
        spec: the opened data; its rows are the raw tokens, of which the inputs keep fewer.
        denoisers: (noise_ratio, mean_span) of each; one is T5, several are drawn uniformly, row by row. A mean_span of None
            hides a suffix.
        roll: turn the noise of each row by a random number of places, which removes T5's position bias. A span that is cut in
            two by it takes one more sentinel, so inputs and targets may be one token longer than T5's solver says.
    """

    modality = "text"
    needs = ("ids",)
    attention = "bidirectional"

    def __init__(
        self,
        encoder: TextEncoder,
        spec: DataSpec,
        denoisers: list[DenoiserSettings] | None = None,
        roll: bool = True,
    ):
        super().__init__(encoder)
        self.denoisers = [Denoiser(**settings) for settings in denoisers or [{"noise_ratio": 0.15, "mean_span": 3.0}]]
        self.roll, self.num_raw = roll, spec.block_length
        self.tables = TextTables(spec)
        needed = max(denoiser.counts(self.num_raw)[1] for denoiser in self.denoisers) + roll
        if len(self.tables.sentinel_ids) < needed:
            raise BadInput(
                f"{needed} spans in a row need as many sentinels, the vocabulary has {len(self.tables.sentinel_ids)}; "
                f"set datamodule.num_sentinels={needed} or more"
            )
        lengths = [denoiser.lengths(self.num_raw) for denoiser in self.denoisers]
        self.num_input, self.num_output = (max(column) + roll for column in zip(*lengths, strict=True))
        self.decoder = make_decoder(encoder.net, encoder.name if encoder.pretrained else None, encoder.dropout)

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        nats, correct, num_targets, num_input = self.predict(batch, draw)
        report = {"accuracy": share(correct, num_targets), "input_tokens": num_input.detach().float().mean()}
        return Outcome(mean_over_targets(nats, num_targets), report)

    def corrupt(self, ids_BT: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(inputs, their lengths, targets, their lengths) of each row, by a denoiser drawn for it."""
        masks = [denoiser.mask(draw, self.num_raw, f"denoiser_{i}", self.roll) for i, denoiser in enumerate(self.denoisers)]
        which_B = draw.integers("denoiser", len(masks), 1)[:, 0]
        mask_BT = torch.stack(masks)[which_B, torch.arange(len(ids_BT), device=ids_BT.device)]
        tables = self.tables
        return split_by_mask(ids_BT, mask_BT, tables.sentinel_ids, tables.end, tables.pad, self.num_input, self.num_output)

    def predict(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(sum of nats, number right, number of targets, input lengths (B,))."""
        if "document" in batch:
            raise BadInput("datamodule.isolate_documents=true does not go with span corruption, which rewrites the rows")
        inputs_BI, num_input_B, target_BO, num_output_B = self.corrupt(batch["ids"], draw)
        present_BI = _up_to(num_input_B, self.num_input)
        encoded = self.encoder(TextInputs(inputs_BI, present_BI)).tokens
        shifted_BO = torch.cat([torch.full_like(target_BO[:, :1], self.tables.pad), target_BO[:, :-1]], dim=1)
        decoded = self.decoder(
            input_ids=shifted_BO, encoder_hidden_states=encoded, encoder_attention_mask=present_BI.long(), use_cache=False
        ).last_hidden_state
        used_BO = _up_to(num_output_B, self.num_output)  # by length, never by id
        scaled = decoded * self.encoder.tied_scale
        nats, correct = linear_cross_entropy(
            scaled.flatten(0, 1), self.encoder.embedding_VD, None, target_BO.masked_fill(~used_BO, -100).flatten()
        )
        return nats, correct, used_BO.sum(), num_input_B

    def likelihood(self, batch: Batch) -> Likelihood:
        """Perplexity of the targets under one fixed noise; comparable only among runs with the same denoisers."""
        nats, _, num_targets, _ = self.predict(batch, Draw(0, torch.zeros_like(batch["index"]), batch["index"]))
        return Likelihood("span_perplexity", nats, num_targets)

    @torch.no_grad()
    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """Three lines a row: the input, the target, and what the decoder writes for it, greedily."""
        batch = {name: value[:4] for name, value in batch.items()}
        inputs_BI, num_input_B, target_BO, num_output_B = self.corrupt(batch["ids"], draw.head(4))
        present_BI = _up_to(num_input_B, self.num_input)
        encoded = self.encoder(TextInputs(inputs_BI, present_BI)).tokens
        written_BO = torch.full_like(target_BO[:, :1], self.tables.pad)
        for _ in range(min(32, self.num_output)):
            decoded = self.decoder(
                input_ids=written_BO, encoder_hidden_states=encoded, encoder_attention_mask=present_BI.long(), use_cache=False
            ).last_hidden_state[:, -1]
            written_BO = torch.cat([written_BO, (decoded @ self.encoder.embedding_VD.T).argmax(-1, keepdim=True)], dim=1)
        rows = [
            "\n\n".join(f"    {self.spelled(ids)}" for ids in (given[:i], target[:o], written[1:]))
            for given, i, target, o, written in zip(inputs_BI, num_input_B, target_BO, num_output_B, written_BO, strict=True)
        ]
        return {"spans": "\n\n---\n\n".join(rows)}

    def spelled(self, ids: Tensor) -> str:
        """Text with sentinels as <0>, <1> ..."""
        first, known = int(self.tables.sentinel_ids[0]), len(self.tables.tokenizer)
        parts, plain = [], []
        for number in [*ids.tolist(), first]:
            if number < known:
                plain.append(number)
                continue
            parts.append(self.tables.text(torch.tensor(plain, dtype=torch.long)))
            parts.append(f"<{first - number}>")
            plain = []
        return " ".join(part for part in parts[:-1] if part)


def _up_to(length_B: Tensor, num_places: int) -> Tensor:
    """(B, num_places) bool: the places before each row's length."""
    return torch.arange(num_places, device=length_B.device) < length_B[:, None]
