"""transformers' text backbones behind the Encoder contract.

Shapes: B rows, L tokens a row, D width, V vocabulary.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AutoConfig

from datamodules.spec import DataSpec
from errors import BadInput, nearest
from models.encoder import ALL_LAYERS, POOLED, Encoder, Features, pool_tokens
from models.last_layer import allow_places, hidden_at
from models.text_nets import (
    ENCODER_DECODERS,
    NAMES,
    USUAL_NAMES,
    build_net,
    first_position,
    fresh_net,
    initialise_as_clip,
    net_from_name,
    sees_later,
    set_dropout,
    stop_guessing,
)
from ranges import Count, ShareBelow1

UNLIMITED = 1_000_000  # positions of architectures that only know distances
ONE_SEGMENT = ("bert", "electra")  # architectures with segments, which take them in one row for all rows
POOLS = ("mean", "first", "last")


@dataclass(frozen=True)
class TextInputs:
    """What a text encoder reads.

    Attributes:
        ids: (B, L) int64.
        present: (B, L) bool, False at padding; None where nothing is padded.
        attend: (B, L, L) bool, which position may see which; None leaves it to the architecture.
        positions: (B, L) int64; None counts from 0.
        segment: (B, L) int64, the first or the second sentence; None is all first.
        padding_last: whether all padding of a row is at its end, where nothing causal looks.
    """

    ids: Tensor
    present: Tensor | None = None
    attend: Tensor | None = None
    positions: Tensor | None = None
    segment: Tensor | None = None
    padding_last: bool = False


class TextEncoder(Encoder):
    """Any text backbone of transformers: bidirectional, causal, or the encoder half of an encoder-decoder.

    Args:
        spec: the opened data; the vocabulary and the block length come from it.
        architecture: transformers' name of the model type ("bert", "modernbert", "gpt2", "llama", "t5"), built from width,
            depth, heads and feedforward; or None, and then one of the next two.
        name: the path or hub id of a Hugging Face model.
        config: a whole configuration of transformers, as an exported encoder has it.
        pretrained: whether the weights of `name` are taken, or only its configuration.
        width, depth, heads, feedforward: of the blocks.
        pool: "mean" of the tokens, the "first" token, or the "last" one.
        dropout: of everything that has dropout, in the networks that an objective trains beside it too.
        initialisation: None is the architecture's own, "clip" that of CLIP's text tower; of fresh weights.
        settings: more of the architecture's own configuration.

    Raises:
        BadInput: no such architecture, pool, model or initialisation, or an embedding smaller than the vocabulary.
    """

    modality = "text"

    def __init__(
        self,
        spec: DataSpec,
        architecture: str | None = None,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        pretrained: bool = False,
        width: Count = 256,
        depth: Count = 4,
        heads: Count = 4,
        feedforward: Count = 1024,
        pool: str = "mean",
        dropout: ShareBelow1 = 0.0,
        initialisation: str | None = None,
        settings: dict[str, Any] | None = None,
    ):
        super().__init__()
        if pool not in POOLS:
            raise BadInput(f"there is no model.pool '{pool}'; {nearest(pool, POOLS)}")
        if initialisation not in (None, "clip"):
            raise BadInput(f"there is no model.initialisation '{initialisation}'; choices: null, clip")
        self.pool, self.pretrained, self.name = pool, pretrained, name
        self.vocabulary, self.block_length = spec.vocabulary, spec.block_length
        if config is not None:
            self.net = build_net(AutoConfig.for_model(**config))
        elif architecture is not None:
            shape = dict(zip(NAMES.get(architecture, USUAL_NAMES), (width, depth, heads, feedforward), strict=True))
            self.net = fresh_net(architecture, spec, shape | (settings or {}))
        else:
            self.net = net_from_name(name, pretrained)
        known = self.net.config
        self.first_position = first_position(self.net)
        self.max_length = (getattr(known, "max_position_embeddings", None) or UNLIMITED) - self.first_position
        if known.vocab_size < spec.vocabulary.size:
            raise BadInput(
                f"the vocabulary of '{spec.name}' has {spec.vocabulary.size} ids, the embedding of {name or known.model_type} "
                f"only {known.vocab_size}; take the tokenizer that belongs to it: datamodule.tokenizer.path={name}"
            )
        if spec.block_length > self.max_length:
            raise BadInput(
                f"rows of {spec.block_length} tokens do not fit the {self.max_length} positions of {name or known.model_type}"
            )
        self.width, self.num_tokens = known.hidden_size, spec.block_length
        allow_places(self.net)
        stop_guessing(self.net)
        self.causal = not sees_later(self.net)
        self.attention = "causal" if self.causal else "bidirectional"
        self.set_drop_path(dropout)
        if initialisation is not None and not pretrained:
            initialise_as_clip(self.net)

    @property
    def blocks(self) -> list[nn.Module]:
        depth = self.net.config.num_hidden_layers
        return list(next(part for part in self.net.modules() if isinstance(part, nn.ModuleList) and len(part) == depth))

    def layers(self) -> dict[str, int]:
        blocks = self.blocks
        owner = {id(weight): i + 1 for i, block in enumerate(blocks) for weight in block.parameters()}
        found, outside = {}, 0
        for name, weight in self.named_parameters():  # in the order in which they are used: embedding, blocks, final norm
            if id(weight) in owner:
                outside = len(blocks) + 1
            found[name] = owner.get(id(weight), outside)
        return found

    def set_drop_path(self, rate: float) -> None:
        """Text backbones have dropout instead of stochastic depth."""
        self.dropout = rate
        set_dropout(self.net, rate)

    def inputs(self, batch: dict[str, Tensor]) -> TextInputs:
        """From a batch with "ids" and, where they are known, "present", "segment" and "document"."""
        attend = positions = None
        if "document" in batch:
            attend, positions = isolated(batch["document"], self.causal)
        return TextInputs(batch["ids"], batch.get("present"), attend, positions, batch.get("segment"), padding_last=True)

    def forward(self, inputs: TextInputs, keep: Tensor | None = None) -> Features:
        if keep is not None:
            raise BadInput("text encoders cannot leave tokens out; the objective needs an image model")
        hidden_BLD = self.net(**self.arguments(inputs)).last_hidden_state
        return Features(hidden_BLD, pool_tokens(hidden_BLD, inputs.present, self.pool), hidden_BLD[:, :0])

    def at(self, inputs: TextInputs, place_BK: Tensor) -> Tensor:
        """(B, K, D): what `forward` gives as tokens, at some places only, and cheaper for that."""
        return hidden_at(self.net, self.arguments(inputs), place_BK)

    @property
    def readout_names(self) -> tuple[str, ...]:
        """Every layer and pooling, the encoder's own choice first; last the means of all layers side by side.

        Layers know different things, and a linear probe learns how to mix them (Devlin et al. 2019, table 7).
        """
        return (POOLED, *self._places, ALL_LAYERS)

    @property
    def _places(self) -> dict[str, tuple[int, str]]:
        """Readout -> (layer, pooling), less the encoder's own; nothing but the mean says anything of the embedding, layer 0."""
        depth = self.net.config.num_hidden_layers
        offered = [(0, "mean"), *((layer, pool) for layer in range(1, depth + 1) for pool in POOLS)]
        return {f"layer {layer} {pool}": (layer, pool) for layer, pool in offered if (layer, pool) != (depth, self.pool)}

    def readouts(self, inputs: TextInputs, names: Iterable[str]) -> dict[str, Tensor]:
        names = list(names)
        if names == [POOLED]:
            return super().readouts(inputs, names)
        hidden = self.net(**self.arguments(inputs), output_hidden_states=True).hidden_states
        places = {POOLED: (-1, self.pool)} | self._places

        def read(name: str) -> Tensor:
            if name == ALL_LAYERS:
                return torch.cat([pool_tokens(hidden_BLD, inputs.present, "mean") for hidden_BLD in hidden], dim=1)
            layer, pool = places[name]
            return pool_tokens(hidden[layer], inputs.present, pool)

        return {name: read(name) for name in names}

    @property
    def embedding_VD(self) -> Tensor:
        """The weight of the token embedding, to which output layers are tied."""
        return self.net.get_input_embeddings().weight

    @property
    def tied_scale(self) -> float:
        """By what hidden vectors are multiplied before a tied output layer: T5's embedding has unit variance, others' 0.02."""
        return self.width**-0.5 if self.net.config.model_type in ENCODER_DECODERS else 1.0

    def arguments(self, inputs: TextInputs) -> dict[str, Any]:
        """The call in transformers' words."""
        arguments: dict[str, Any] = {"input_ids": inputs.ids}
        if inputs.attend is not None:
            arguments["attention_mask"] = self._mask(inputs.attend, inputs.positions)
        elif inputs.present is not None and not (self.causal and inputs.padding_last):
            arguments["attention_mask"] = inputs.present.long()
        if inputs.positions is not None and self.net.config.model_type not in ENCODER_DECODERS:  # T5's positions are relative
            arguments["position_ids"] = inputs.positions + self.first_position
        if inputs.segment is not None and getattr(self.net.config, "type_vocab_size", 0) > 1:
            arguments["token_type_ids"] = inputs.segment
        elif self.net.config.model_type in ONE_SEGMENT:  # one row for all: its gradient is a sum, not sorted by token
            arguments["token_type_ids"] = torch.zeros_like(inputs.ids[:1])
        if self.causal:
            arguments["use_cache"] = False
        return arguments

    def _mask(self, attend_BLL: Tensor, positions_BL: Tensor | None) -> Tensor | BlockMask | dict[str, Tensor | BlockMask]:
        mask = blocks_of if self.net.config._attn_implementation == "flex_attention" else additive
        if self.net.config.model_type != "modernbert":
            return mask(attend_BLL)
        place = torch.arange(attend_BLL.shape[1], device=attend_BLL.device) if positions_BL is None else positions_BL
        near_BLL = attend_BLL & ((place[..., :, None] - place[..., None, :]).abs() <= self.net.config.sliding_window)
        # who sees nothing there sees itself: a softmax over what is all masked would be a mean over what must not be seen
        alone_BL1 = ~near_BLL.any(-1, keepdim=True)
        near_BLL = near_BLL | alone_BL1 & torch.eye(near_BLL.shape[-1], dtype=torch.bool, device=near_BLL.device)
        return {"full_attention": mask(attend_BLL), "sliding_attention": mask(near_BLL)}

    def recipe(self) -> dict[str, Any]:
        """What is needed to build the module again, in plain containers: checkpoints hold nothing else."""
        return {
            "library": "transformers",
            "name": self.name or self.net.config.model_type,
            "config": json.loads(self.net.config.to_json_string()),
            "pool": self.pool,
            "block_length": self.block_length,
            "width": self.width,
            **self.vocabulary.recipe(),
        }

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.net.state_dict().items()}
        return weights, self.recipe()


def isolated(document_BL: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """(attend (B, L, L), positions (B, L)): attention stays inside a document, and positions restart with each."""
    length = document_BL.shape[1]
    attend_BLL = document_BL[:, :, None] == document_BL[:, None, :]
    place = torch.arange(length, device=document_BL.device)
    if causal:
        attend_BLL = attend_BLL & (place[None, :] <= place[:, None])
    begins = torch.ones_like(document_BL, dtype=torch.bool)
    begins[:, 1:] = document_BL[:, 1:] != document_BL[:, :-1]
    return attend_BLL, place - (place * begins).cummax(dim=1).values


def additive(attend_BLL: Tensor) -> Tensor:
    """(B, 1, L, L): 0 where a position may be seen, else the lowest number, as transformers adds it to the scores."""
    mask = torch.zeros(attend_BLL.shape, device=attend_BLL.device)
    return mask.masked_fill_(~attend_BLL, torch.finfo(mask.dtype).min)[:, None]


def blocks_of(attend_BLL: Tensor) -> BlockMask:
    """The same for FlexAttention, which leaves out blocks of 128 x 128 positions of which none may be seen."""
    batch, length, _ = attend_BLL.shape
    return create_block_mask(lambda b, _, i, j: attend_BLL[b, i, j], batch, None, length, length, device=attend_BLL.device)
