"""Which tokens are noise, and how the input shows it: pure functions of draws.

Shapes: B rows, L tokens a row, K places for noisy tokens a row (the same in every row), V vocabulary. A row with fewer than K
noisy tokens fills up with places that are not `used`: shapes stay static, and nothing is learned there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from objectives.draw import Draw

LAST = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Noise:
    """Noisy places.

    Attributes:
        place_BK: positions in the row, ascending where order matters.
        used_BK: which of them really are noise.
        group_BK: what is drawn together, such as a span; by default every place for itself.
    """

    place_BK: Tensor
    used_BK: Tensor
    group_BK: Tensor

    @classmethod
    def of(cls, place_BK: Tensor, used_BK: Tensor) -> "Noise":
        own_BK = torch.arange(place_BK.shape[1], device=place_BK.device).expand_as(place_BK)
        return cls(place_BK, used_BK, own_BK)


def noise_count(mask_ratio: float, candidate_BL: Tensor, rounding: Callable[[float], int] = round) -> Tensor:
    """(B,): that share of the candidates, rounded as Python does it; float32 would make 16 of ceil(0.15 * 100)."""
    return _counts(mask_ratio, candidate_BL.shape[1], rounding, candidate_BL.device)[candidate_BL.sum(1)]


@cache  # a GPU would wait for the numbers in every step
def _counts(mask_ratio: float, length: int, rounding: Callable[[float], int], device: torch.device) -> Tensor:
    return torch.tensor([rounding(mask_ratio * num) for num in range(length + 1)], device=device)


def choose_tokens(draw: Draw, candidate_BL: Tensor, count_B: Tensor, num_places: int) -> Noise:
    """`count_B` candidates of each row, all equally likely."""
    key_BL = draw.bits("noise", candidate_BL.shape[1]).masked_fill(~candidate_BL, LAST)
    place_BK = key_BL.topk(num_places, dim=1, largest=False).indices
    rank_K = torch.arange(num_places, device=place_BK.device)
    return Noise.of(place_BK, (rank_K < count_B[:, None]) & candidate_BL.gather(1, place_BK))


def choose_words(draw: Draw, candidate_BL: Tensor, begins_BL: Tensor, count_B: Tensor, num_places: int) -> Noise:
    """Whole words in random order until the next one would exceed `count_B` tokens.

    BERT goes on with shorter words instead of stopping, and so under-samples long ones.

    Args:
        begins_BL: which tokens begin a word; a row's first token always does.
    """
    word_BL = begins_BL.long().cumsum(1)
    word_BL = word_BL - word_BL[:, :1]
    key_BL = draw.bits("noise", candidate_BL.shape[1]).gather(1, word_BL)
    order_BL = key_BL.masked_fill(~candidate_BL, LAST).argsort(dim=1, stable=True)  # words stay together, in their order
    word_BL = word_BL.gather(1, order_BL)
    rank_L = torch.arange(word_BL.shape[1], device=word_BL.device)
    next_word_B1 = word_BL.gather(1, count_B[:, None].clamp(max=word_BL.shape[1] - 1))
    whole_BL = (rank_L < count_B[:, None]) & (word_BL != next_word_B1) & candidate_BL.gather(1, order_BL)
    return Noise.of(order_BL[:, :num_places], whole_BL[:, :num_places])


def span_lengths(draw: Draw, num_spans: int, p: float, longest: int) -> Tensor:
    """(B, num_spans) lengths in words: P(l) ∝ p (1 - p)^(l - 1) for l up to `longest` (Joshi et al. 2020, section 3.1)."""
    uniform = draw.uniform("span_length", num_spans)
    return 1 + torch.bucketize(uniform, _length_bounds(p, longest, uniform.device), right=True)


@cache  # as `_counts`
def _length_bounds(p: float, longest: int, device: torch.device) -> Tensor:
    """Up to which uniform numbers a span is 1, 2, ... words long."""
    share = p * (1 - p) ** torch.arange(longest, dtype=torch.float64)
    return (share / share.sum()).cumsum(0)[:-1].float().to(device)


def choose_spans(
    draw: Draw, candidate_BL: Tensor, begins_BL: Tensor, count_B: Tensor, num_places: int, p: float, longest: int
) -> Noise:
    """Spans of whole words until `count_B` tokens are noise; the last span may stop inside a word, as the original's does.

    A span begins at the start of the word that a random free token belongs to, and ends before anything that is no candidate
    or is noise already. Returned places ascend; `group_BK` numbers the spans.
    """
    batch, length = candidate_BL.shape
    position_L = torch.arange(length, device=candidate_BL.device)
    begins_BL = begins_BL | ~candidate_BL | ~candidate_BL.roll(1, 1)
    begins_BL[:, 0] = True
    word_BL = begins_BL.long().cumsum(1)
    word_start_BL = torch.where(begins_BL, position_L, 0).cummax(1).values
    num_spans = num_places  # enough even when every span is one token long
    length_BS = span_lengths(draw, num_spans, p, longest)
    anchor_key_BS = draw.uniform("anchor", num_spans)
    free_BL, span_BL = candidate_BL.clone(), torch.full((batch, length), -1, device=candidate_BL.device)
    left_B = count_B.clone()
    for span in range(num_spans):
        num_free_B = free_BL.sum(1)
        which_B = (anchor_key_BS[:, span] * num_free_B).long().clamp(max=length - 1)
        anchor_B1 = (free_BL.long().cumsum(1) == which_B[:, None] + 1).long().argmax(1, keepdim=True)
        start_B1 = word_start_BL.gather(1, anchor_B1)
        in_words_BL = (word_BL >= word_BL.gather(1, start_B1)) & (
            word_BL < word_BL.gather(1, start_B1) + length_BS[:, span, None]
        )
        blocked_BL = ~free_BL & (position_L >= start_B1)
        open_BL = (position_L >= start_B1) & (blocked_BL.long().cumsum(1) == 0)
        covered_BL = in_words_BL & open_BL & (num_free_B > 0)[:, None]
        covered_BL &= covered_BL.long().cumsum(1) <= left_B[:, None]
        span_BL = torch.where(covered_BL, span, span_BL)
        free_BL = free_BL & ~covered_BL
        left_B = left_B - covered_BL.sum(1)
    noisy_BL = span_BL >= 0
    place_BK = (~noisy_BL).long().argsort(dim=1, stable=True)[:, :num_places]
    return Noise(place_BK, noisy_BL.gather(1, place_BK), span_BL.gather(1, place_BK).clamp(min=0))


def hide(
    draw: Draw, ids_BL: Tensor, noise: Noise, mask_id: int, random_ids: Tensor, masked: float = 0.8, random: float = 0.1
) -> Tensor:
    """The input: of the noisy tokens a share becomes `mask_id`, a share another token, the others stay as they are.

    What happens is drawn once for each group; which token replaces one is drawn for each place.
    """
    num_places = noise.place_BK.shape[1]
    what_BK = draw.uniform("what", num_places).gather(1, noise.group_BK)
    other_BK = random_ids[draw.integers("other", len(random_ids), num_places)]
    old_BK = ids_BL.gather(1, noise.place_BK)
    new_BK = torch.where(what_BK < masked, mask_id, torch.where(what_BK < masked + random, other_BK, old_BK))
    return ids_BL.scatter(1, noise.place_BK, torch.where(noise.used_BK, new_BK, old_BK))
