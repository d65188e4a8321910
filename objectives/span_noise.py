"""T5's span noise (Raffel et al. 2020, section 3.1.4; the authors' preprocessors): masks, and inputs and targets from a mask.

Shapes: B rows, T raw tokens a row, S spans, I input tokens, O output tokens.
"""

from dataclasses import dataclass
from typing import Annotated, TypedDict

import torch
from annotated_types import Ge
from torch import Tensor

from objectives.draw import Draw
from ranges import OpenShare


class DenoiserSettings(TypedDict):
    """A `Denoiser` as a configuration says it; no span is shorter than a token."""

    noise_ratio: OpenShare
    mean_span: Annotated[float, Ge(1)] | None


@dataclass(frozen=True)
class Denoiser:
    """One law of span noise.

    Attributes:
        noise_ratio: share of the tokens that is noise.
        mean_span: average length of a span in tokens; None hides one suffix, uniform in length, of that mean share.
    """

    noise_ratio: float
    mean_span: float | None

    def counts(self, num_raw: int) -> tuple[int, int]:
        """(noisy tokens, spans) in a row; of a suffix the most that there can be."""
        if self.mean_span is None:
            return min(num_raw - 1, max(1, 2 * round(self.noise_ratio * num_raw) - 1)), 1
        num_noise = min(max(round(num_raw * self.noise_ratio), 1), num_raw - 1)
        return num_noise, min(max(1, round(num_noise / self.mean_span)), num_raw - num_noise)

    def lengths(self, num_raw: int) -> tuple[int, int]:
        """(input tokens, target tokens) of a row, the end token of each included; of a suffix the most of each."""
        num_noise, num_spans = self.counts(num_raw)
        num_kept = num_raw - 1 if self.mean_span is None else num_raw - num_noise
        return num_kept + num_spans + 1, num_noise + num_spans + 1

    def mask(self, draw: Draw, num_raw: int, name: str, roll: bool) -> Tensor:
        """(B, T) bool: the noise of each row.

        `roll` turns each row's mask by a random number of places: without it the first token is never noise and the last
        always is.
        """
        num_noise, num_spans = self.counts(num_raw)
        if self.mean_span is None:
            suffix_B1 = 1 + draw.integers(f"{name}_suffix", num_noise, 1)
            return torch.arange(num_raw, device=suffix_B1.device) >= num_raw - suffix_B1
        noise_BS = composition(draw, f"{name}_noise", num_noise, num_spans)
        clean_BS = composition(draw, f"{name}_clean", num_raw - num_noise, num_spans)
        # clean, noisy, clean, noisy ...: a place is noise where an odd number of pieces ended before it
        ends = torch.stack([clean_BS, noise_BS], dim=2).flatten(1).cumsum(1)[:, :-1]
        crossed = torch.zeros(len(ends), num_raw, dtype=torch.long, device=ends.device)
        mask_BT = crossed.scatter(1, ends, 1).cumsum(1) % 2 == 1
        if roll:
            turn_B1 = draw.integers(f"{name}_roll", num_raw, 1)
            place_BT = (torch.arange(num_raw, device=mask_BT.device) - turn_B1) % num_raw
            mask_BT = mask_BT.gather(1, place_BT)
        return mask_BT


def composition(draw: Draw, name: str, total: int, parts: int) -> Tensor:
    """(B, parts): positive numbers that sum to `total`, every such sequence equally likely."""
    cuts = draw.permutation(name, total - 1)[:, : parts - 1].sort(1).values + 1  # empty for a single part
    zero = torch.zeros(len(draw.index), 1, dtype=torch.long, device=draw.index.device)
    return torch.diff(torch.cat([zero, cuts, zero + total], dim=1), dim=1)


def raw_length(denoiser: Denoiser, input_length: int) -> int:
    """The most raw tokens whose input fits into `input_length`: 568 for 512 with T5's noise (the authors' length solver)."""
    num_raw = input_length
    while denoiser.lengths(num_raw + 1)[0] <= input_length:
        num_raw += 1
    return num_raw


def split_by_mask(
    ids_BT: Tensor, mask_BT: Tensor, sentinel_ids: Tensor, end: int, pad: int, num_input: int, num_output: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(inputs (B, I), their lengths (B,), targets (B, O), their lengths (B,)).

    In the inputs each noisy span is one sentinel; the targets are, span for span, the sentinel and the tokens that it stands
    for. Both end with `end` and are filled with `pad`.
    """
    begins_BT = mask_BT & ~torch.cat([torch.zeros_like(mask_BT[:, :1]), mask_BT[:, :-1]], dim=1)
    span_BT = begins_BT.long().cumsum(1)  # 1 for the first span
    sentinel_BT = sentinel_ids[(span_BT - 1).clamp(0, len(sentinel_ids) - 1)]
    kept_BT = ~mask_BT | begins_BT
    inputs, input_length = _gathered(torch.where(begins_BT, sentinel_BT, ids_BT), kept_BT, end, pad, num_input)
    # in the targets a token stands behind all noisy tokens before it and the sentinels of the spans so far, its own included
    place_BT = mask_BT.long().cumsum(1) - 1 + span_BT
    targets = ids_BT.new_full((len(ids_BT), num_output + 1), pad)  # one column more, for what is no target
    nowhere = torch.full_like(place_BT, num_output)
    targets.scatter_(1, torch.where(mask_BT, place_BT, nowhere), ids_BT)
    targets.scatter_(1, torch.where(begins_BT, place_BT - 1, nowhere), sentinel_BT)
    count_B1 = mask_BT.sum(1, keepdim=True) + span_BT[:, -1:]
    targets.scatter_(1, count_B1, end)
    return inputs, input_length, targets[:, :num_output], count_B1[:, 0] + 1


def _gathered(ids_BT: Tensor, kept_BT: Tensor, end: int, pad: int, num_places: int) -> tuple[Tensor, Tensor]:
    place_BT = torch.where(kept_BT, kept_BT.long().cumsum(1) - 1, num_places)
    rows = ids_BT.new_full((len(ids_BT), num_places + 1), pad).scatter_(1, place_BT, ids_BT)
    count_B1 = kept_BT.sum(1, keepdim=True)
    return rows.scatter_(1, count_B1, end)[:, :num_places], count_B1[:, 0] + 1
