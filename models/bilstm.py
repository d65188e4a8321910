"""ELMo's network (Peters et al. 2018, section 3.1): two stacks of LSTMs, one for each direction, over one token embedding.

Shapes: B rows, L tokens a row, H width of one direction and of the embedding, D = 2 H, V vocabulary.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import ALL_LAYERS, POOLED, Encoder, Features, pool_tokens
from models.text_encoder import TextInputs
from ranges import Count, ShareBelow1


class BiLSTM(Encoder):
    """Two language models' networks; the first half of a token's vector never saw what follows, the second what precedes.

    Unlike ELMo's, tokens come from a vocabulary instead of characters, and the LSTMs have no projection.

    Args:
        spec: the opened data; the vocabulary comes from it.
        width: D, both directions together.
        depth: layers; each but the first adds what it makes to what it was given.
        dropout: of what every layer makes.
    """

    modality = "text"
    attention = "directions"

    def __init__(self, spec: DataSpec, width: Count = 256, depth: Count = 2, dropout: ShareBelow1 = 0.0):
        super().__init__()
        if width < 2 or width % 2 or depth < 1:
            raise BadInput(f"model=bilstm needs an even model.width and a model.depth of at least 1, not {width} and {depth}")
        self.width, self.vocabulary, self.block_length = width, spec.vocabulary, spec.block_length
        self.net = _Net(spec.vocabulary.size, width // 2, depth)
        self.set_drop_path(dropout)

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.net.layers)

    def layers(self) -> dict[str, int]:
        parts = {name: name.split(".") for name, _ in self.named_parameters()}  # net.embedding.weight, net.layers.0. ...
        return {name: int(part[2]) + 1 if part[1] == "layers" else 0 for name, part in parts.items()}

    def set_drop_path(self, rate: float) -> None:
        """Dropout instead of stochastic depth."""
        self.net.dropout.p = rate

    def inputs(self, batch: dict[str, Tensor]) -> TextInputs:
        if "document" in batch:
            raise BadInput("model=bilstm reads a row from end to end; datamodule.isolate_documents=true needs attention")
        return TextInputs(batch["ids"], batch.get("present"))

    def forward(self, inputs: TextInputs, keep: Tensor | None = None) -> Features:
        """Tokens are those of the last layer; pooled is the mean over tokens and layers, ELMo's mix with equal weights."""
        if keep is not None:
            raise BadInput("text encoders cannot leave tokens out; the objective needs an image model")
        layers = self.net(inputs.ids, inputs.present)
        pooled_BD = pool_tokens(torch.stack(layers).mean(0), inputs.present, "mean")
        return Features(layers[-1], pooled_BD, layers[-1][:, :0])

    @property
    def readout_names(self) -> tuple[str, ...]:
        """The equal mix; every layer, as a mean and as what both directions know at their ends; all layers side by side.

        On the last a linear probe learns how to mix the layers (section 3.2), even each dimension for itself.
        """
        blocks = (f"layer {number} {kind}" for number in range(1, len(self.blocks) + 1) for kind in ("mean", "ends"))
        return (POOLED, "layer 0 mean", *blocks, ALL_LAYERS)

    def readouts(self, inputs: TextInputs, names: Iterable[str]) -> dict[str, Tensor]:
        layers = self.net(inputs.ids, inputs.present)
        means = [pool_tokens(layer_BLD, inputs.present, "mean") for layer_BLD in layers]
        read = {POOLED: torch.stack(means).mean(0), ALL_LAYERS: torch.cat(means, dim=1)}
        for number, layer_BLD in enumerate(layers):
            read[f"layer {number} mean"] = means[number]
            last_BH = pool_tokens(layer_BLD, inputs.present, "last")[:, : self.width // 2]
            read[f"layer {number} ends"] = torch.cat([last_BH, layer_BLD[:, 0, self.width // 2 :]], dim=1)
        return {name: read[name] for name in names}

    @property
    def embedding_VD(self) -> Tensor:
        """(V, H): the token embedding, which serves both directions, and to which their output layer is tied."""
        return self.net.embedding.weight

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        recipe = {
            "library": "headstart",
            "name": "bilstm",
            "arguments": {"width": self.width, "depth": len(self.blocks)},
            "block_length": self.block_length,
            "width": self.width,
            **self.vocabulary.recipe(),
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.net.state_dict().items()}, recipe


class _Net(nn.Module):
    def __init__(self, num_tokens: int, width: int, depth: int):
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)  # as input it is not lost, as output logits begin near 0
        self.layers = nn.ModuleList(_Layer(width) for _ in range(depth))
        self.dropout = nn.Dropout(0.0)

    def forward(self, ids_BL: Tensor, present_BL: Tensor | None) -> list[Tensor]:
        """(B, L, D) of the embedding, twice side by side (section 3.2), and of every layer."""
        back_BL = backwards(ids_BL, present_BL)
        embedded_BLH = self.embedding(ids_BL)
        ahead_BLH, behind_BLH = embedded_BLH, turned(embedded_BLH, back_BL)
        found = [torch.cat([embedded_BLH, embedded_BLH], dim=-1)]
        for number, layer in enumerate(self.layers):
            made = [self.dropout(made_BLH) for made_BLH in layer(ahead_BLH, behind_BLH)]
            if number > 0:
                made = [made[0] + ahead_BLH, made[1] + behind_BLH]
            ahead_BLH, behind_BLH = made
            found.append(torch.cat([ahead_BLH, turned(behind_BLH, back_BL)], dim=-1))
        return found


class _Layer(nn.Module):
    """One LSTM for each direction; both read from left to right, the second what was turned round."""

    def __init__(self, width: int):
        super().__init__()
        self.ahead, self.behind = (nn.LSTM(width, width, batch_first=True) for _ in range(2))

    def forward(self, ahead_BLH: Tensor, behind_BLH: Tensor) -> tuple[Tensor, Tensor]:
        return self.ahead(ahead_BLH)[0], self.behind(behind_BLH)[0]


def backwards(ids_BL: Tensor, present_BL: Tensor | None) -> Tensor:
    """(B, L) places that turn each row round; padding stays behind it. Turning twice is turning back."""
    place_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
    if present_BL is None:
        return place_L.flip(0).expand(ids_BL.shape)
    turned_BL = present_BL.sum(1, keepdim=True) - 1 - place_L
    return torch.where(present_BL, turned_BL, place_L)


def turned(rows_BLH: Tensor, back_BL: Tensor) -> Tensor:
    """Each row in the order of its places."""
    return rows_BLH.gather(1, back_BL.unsqueeze(-1).expand_as(rows_BLH))
