"""Masked language modelling (Devlin et al. 2019, section 3.1).

Noise:  15 % of the ordinary tokens of each row, drawn anew in every epoch.
Input:  80 % of them [MASK], 10 % another ordinary token, 10 % left as they are.
Target: the original token at the noisy places, and nowhere else.

On request BERT's second task is learned beside it, whose loss is added: see next_sentence.py.

Shapes: B rows, L tokens a row, K places for noisy tokens a row, D width.
"""

from functools import partial

import torch
from torch import Tensor

from datamodules.spec import DataSpec
from errors import BadInput, nearest
from models.text_encoder import TextEncoder
from objectives.draw import Draw
from objectives.next_sentence import NextSentenceHead, SentencePairs
from objectives.objective import Batch, Likelihood, Objective, Outcome, TextView
from objectives.targets import mean_over_targets, share
from objectives.text_tables import TextTables
from objectives.token_head import TokenHead
from objectives.token_noise import Noise, choose_tokens, choose_words, hide, noise_count
from ranges import Count, OpenShare

ORIGINALS = ("bert", "roberta")


class MaskedLanguageModel(Objective):
    """MLM.

    Args:
        encoder: bidirectional.
        spec: the opened data.
        mask_ratio: share of the ordinary tokens that is noise, the same count in rows of equal length.
        whole_word: words are noise as a whole.
        static_copies: None draws anew in every epoch; a number repeats the noise, and the pairs of texts, after so many epochs
            (BERT's data had 10).
        faithful: "bert" or "roberta" does as the authors' code does where that differs from the above. BERT: the count includes
            [CLS] and [SEP], at most 20, random tokens come from the whole vocabulary. RoBERTa: <s> and </s> can be noise
            (they are prepended before masking), and the count is int(p n + u) with uniform u.
        next_sentence: whether rows are pairs of texts, and whether the second follows the first is learned too.
    """

    modality = "text"
    needs = ("ids",)
    attention = "bidirectional"

    def __init__(
        self,
        encoder: TextEncoder,
        spec: DataSpec,
        mask_ratio: OpenShare = 0.15,
        whole_word: bool = False,
        static_copies: Count | None = None,
        faithful: str | None = None,
        next_sentence: bool = False,
    ):
        super().__init__(encoder)
        if not 0 < mask_ratio < 1:
            raise BadInput(f"objective.mask_ratio must lie between 0 and 1, not {mask_ratio}")
        if faithful is not None and faithful not in ORIGINALS:
            raise BadInput(f"objective.faithful='{faithful}' is no original; {nearest(faithful, ORIGINALS)}")
        self.mask_ratio, self.whole_word, self.faithful = mask_ratio, whole_word, faithful
        self.static_copies = 10 if faithful == "bert" and static_copies is None else static_copies
        self.tables = TextTables(spec)
        self.tables.need_mask("mlm")
        self.head = TokenHead(encoder.width, encoder.embedding_VD, encoder.tied_scale)
        self.pairs = self.next_sentence = None
        if next_sentence:
            if faithful == "roberta":
                raise BadInput("objective.faithful=roberta has no second task; objective.next_sentence=true is BERT's")
            self.pairs = partial(
                SentencePairs, vocabulary=spec.vocabulary, length=spec.block_length, static_copies=self.static_copies
            )
            self.next_sentence = NextSentenceHead(encoder.width)

    def views(self) -> TextView | None:
        """Pairs of texts, where the second task is learned."""
        return self.pairs

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        if self.static_copies is not None:
            draw = draw.repeating(self.static_copies)
        noise = self.choose(batch["ids"], draw, batch.get("present"))
        seen_BL = hide(draw, batch["ids"], noise, self.tables.mask, self.random_ids())
        hidden = self.hidden(batch, seen_BL, noise)
        nats, correct, num_targets = self.predict(batch, hidden, noise)
        loss, report = mean_over_targets(nats, num_targets), {"accuracy": share(correct, num_targets)}
        if self.next_sentence is not None:
            nats, correct = self.next_sentence(hidden, batch["is_next"])
            num_rows = torch.ones_like(batch["is_next"]).sum()
            next_loss = mean_over_targets(nats, num_rows)
            report |= {"masked_loss": loss.detach(), "next_sentence_loss": next_loss.detach()}
            report["next_sentence_accuracy"] = share(correct, num_rows)
            loss = loss + next_loss
        return Outcome(loss, report)

    def choose(self, ids_BL: Tensor, draw: Draw, present_BL: Tensor | None = None) -> Noise:
        """The noisy places; `present_BL` is False at padding, None where nothing is padded."""
        candidate_BL = self.tables.ordinary(ids_BL)
        length = ids_BL.shape[1]
        real_BL = torch.ones_like(candidate_BL) if present_BL is None else present_BL
        if self.faithful == "roberta":
            candidate_BL = real_BL
            count_B = (self.mask_ratio * real_BL.sum(1) + draw.uniform("count", 1)[:, 0]).long()
        elif self.faithful == "bert":
            count_B = noise_count(self.mask_ratio, real_BL).clamp(1, 20)
        else:
            count_B = noise_count(self.mask_ratio, candidate_BL)
        num_places = min(length, max(1, round(self.mask_ratio * length) + (self.faithful == "roberta")))
        if self.whole_word:
            return choose_words(draw, candidate_BL, self.tables.begins_word_V[ids_BL], count_B, num_places)
        return choose_tokens(draw, candidate_BL, count_B, num_places)

    def random_ids(self) -> Tensor:
        """What may be drawn instead of a token."""
        if self.faithful == "bert":
            return torch.arange(len(self.tables.ordinary_V), device=self.tables.ordinary_ids.device)
        return self.tables.ordinary_ids

    def hidden(self, batch: Batch, seen_BL: Tensor, noise: Noise) -> Tensor:
        """(B, K, D) at the noisy places, before them (B, 1, D) at the first token where the second task is learned.

        Nowhere else is there a target: the head is most of a small model's cost, and the last layer a good part of the rest.
        """
        place = noise.place_BK
        if self.next_sentence is not None:
            place = torch.cat([torch.zeros_like(place[:, :1]), place], dim=1)
        return self.encoder.at(self.encoder.inputs({**batch, "ids": seen_BL}), place)

    def predict(self, batch: Batch, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of nats, number right, number of targets) of the noisy places, given `hidden`."""
        hidden_BKD = hidden[:, -noise.place_BK.shape[1] :]
        target_BK = batch["ids"].gather(1, noise.place_BK).masked_fill(~noise.used_BK, -100)
        nats, correct = self.head(hidden_BKD.flatten(0, 1), self.encoder.embedding_VD, target_BK.flatten())
        return nats, correct, noise.used_BK.sum()

    def likelihood(self, batch: Batch) -> Likelihood:
        """Pseudo-perplexity at one fixed mask of 15 %, whatever was trained with."""
        noise, seen_BL = fixed_mask(self.tables, batch)
        nats, _, num_targets = self.predict(batch, self.hidden(batch, seen_BL, noise), noise)
        return Likelihood("pseudo_perplexity", nats, num_targets)

    @torch.no_grad()
    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """Some rows: what the model saw, and what it guessed at the noisy places."""
        noise, seen_BL = fixed_mask(self.tables, batch)
        hidden = self.hidden(batch, seen_BL, noise)
        logits_BKV = self.head.logits(hidden[:, -noise.place_BK.shape[1] :], self.encoder.embedding_VD)
        texts = {"masked_text": guesses(self.tables, batch["ids"], seen_BL, noise, logits_BKV.argmax(-1))}
        if self.next_sentence is not None and "is_next" in batch:
            follows_B = self.next_sentence.logits(hidden).softmax(1)[:, 1]
            texts["next_sentence"] = "\n\n".join(
                f"    {self.tables.text(ids)}\n\n    {'follows' if is_next else 'from elsewhere'}, believed to follow: {p:.2f}"
                for ids, is_next, p in zip(batch["ids"], batch["is_next"], follows_B.tolist(), strict=True)
            )
        return texts


def fixed_mask(tables: TextTables, batch: Batch, mask_ratio: float = 0.15) -> tuple[Noise, Tensor]:
    """(noise, seen (B, L)): the mask on which masked objectives are compared; a function of the block's number alone."""
    draw = Draw(0, torch.zeros_like(batch["index"]), batch["index"])
    candidate_BL = tables.ordinary(batch["ids"])
    num_places = max(1, round(mask_ratio * candidate_BL.shape[1]))
    noise = choose_tokens(draw, candidate_BL, noise_count(mask_ratio, candidate_BL), num_places)
    return noise, hide(draw, batch["ids"], noise, tables.mask, tables.ordinary_ids, masked=1.0, random=0.0)


def guesses(tables: TextTables, ids_BL: Tensor, seen_BL: Tensor, noise: Noise, guess_BK: Tensor) -> str:
    """Markdown: the input of each row, and its guesses in the order of the row, "truth -> guess" where they differ."""
    rows = []
    for ids, seen, place, used, guess in zip(ids_BL, seen_BL, noise.place_BK, noise.used_BK, guess_BK, strict=True):
        order = place[used].argsort()
        truth, guess = ids[place[used][order]], guess[used][order]
        words = [
            tables.text(t[None]) if t == g else f"{tables.text(t[None])} -> {tables.text(g[None])}"
            for t, g in zip(truth, guess, strict=True)
        ]
        rows.append(f"    {tables.text(seen)}\n\n    {', '.join(words)}")
    return "\n\n---\n\n".join(rows)
