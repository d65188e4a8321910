"""What a causal model writes: samples for a person to read."""

import torch
from torch import Tensor

from models.text_encoder import TextEncoder, TextInputs
from objectives.draw import Draw
from objectives.objective import Batch
from objectives.text_tables import TextTables

LENGTH = 32  # tokens
TEMPERATURE = 0.8
ROWS = 4


@torch.no_grad()
def continue_text(encoder: TextEncoder, tables: TextTables, batch: Batch, draw: Draw) -> str:
    """Markdown: the beginning of some rows, and after "|" what the model makes of it.

    Of an encoder with two directions the first half of its vectors looks ahead, and is as wide as the embedding.
    """
    given = max(1, batch["ids"].shape[1] // 4)
    num_new = min(LENGTH, batch["ids"].shape[1] - given)
    ids_BL = batch["ids"][:ROWS, :given]
    uniform_BL = draw.uniform("continuation", num_new)[:ROWS]
    embedding_VD = encoder.embedding_VD
    for step in range(num_new):
        logits_BV = (encoder(TextInputs(ids_BL)).tokens[:, -1, : embedding_VD.shape[1]] @ embedding_VD.T).float()
        ids_BL = torch.cat([ids_BL, pick(logits_BV / TEMPERATURE, uniform_BL[:, step])[:, None]], dim=1)
    return "\n\n".join(f"    {tables.text(ids[:given])} | {tables.text(ids[given:])}" for ids in ids_BL)


def pick(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """(...): one token for each softmax, by inverting its cumulative sum.

    The same law as the argmax of logits plus Gumbel noise, with one random number for a place instead of V.
    """
    cumulative_BV = logits_BV.float().softmax(-1).cumsum(-1)
    point_B1 = uniform_B.unsqueeze(-1) * cumulative_BV[..., -1:]
    return torch.searchsorted(cumulative_BV, point_B1, right=True).squeeze(-1).clamp(max=logits_BV.shape[-1] - 1)
