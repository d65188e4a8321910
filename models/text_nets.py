"""Networks of transformers: how an encoder's is configured and built, and those that an objective trains beside it."""

import copy
from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    ElectraConfig,
    ElectraModel,
    ModernBertModel,
    PretrainedConfig,
    PreTrainedModel,
    masking_utils,
)

from datamodules.spec import DataSpec
from errors import BadInput, one_line
from models.last_layer import allow_places

if TYPE_CHECKING:
    from transformers.models.t5.modeling_t5 import T5Stack

ENCODER_DECODERS = ("t5", "mt5", "umt5")  # transformers' model types of which the encoder half is taken
NAMES = {  # what width, depth, heads and feedforward are called in the configuration of an architecture
    "gpt2": ("n_embd", "n_layer", "n_head", "n_inner"),
    "t5": ("d_model", "num_layers", "num_heads", "d_ff"),
}
USUAL_NAMES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_WITHOUT_POOLER = {"bert": {"add_pooling_layer": False}}  # BERT's pooler is trained by next-sentence prediction only
SHORTEST_POSITIONS = 512  # so that sentences longer than the blocks can be judged


def fresh_net(architecture: str, spec: DataSpec, settings: dict[str, Any]) -> PreTrainedModel:
    """The network of an architecture, with vocabulary, special ids and positions from the data.

    Raises:
        BadInput: as `net_config` and `build_net`.
    """
    net = build_net(net_config(architecture, spec, settings))
    first = first_position(net)
    return build_net(net_config(architecture, spec, settings, first)) if first else net


def first_position(net: PreTrainedModel) -> int:
    """The first token's position: RoBERTa and its kin keep a row of the table for padding, and count from behind it."""
    table = getattr(getattr(net, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def net_config(architecture: str, spec: DataSpec, settings: dict[str, Any], first_position: int = 0) -> PretrainedConfig:
    """The configuration of an architecture whose positions begin at `first_position`.

    Raises:
        BadInput: transformers does not know the architecture or a setting.
    """
    vocabulary = spec.vocabulary
    special = {"pad_token_id": vocabulary.pad, "bos_token_id": vocabulary.start, "eos_token_id": vocabulary.end}
    if architecture == "modernbert":
        special |= {"cls_token_id": vocabulary.start, "sep_token_id": vocabulary.end}
    if architecture == "t5":
        special["decoder_start_token_id"] = vocabulary.pad
        settings = {"d_kv": settings["d_model"] // settings["num_heads"]} | settings
    else:
        special["max_position_embeddings"] = max(SHORTEST_POSITIONS, spec.block_length) + first_position
    try:
        return AutoConfig.for_model(architecture, vocab_size=vocabulary.size, **(special | settings))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"transformers cannot configure '{architecture}': {one_line(error)}") from error


def build_net(config: PretrainedConfig) -> PreTrainedModel:
    """The network of a configuration, with fresh weights.

    Raises:
        BadInput: transformers has none.
    """
    try:
        return _auto(config).from_config(config, **_WITHOUT_POOLER.get(config.model_type, {}))
    except ValueError as error:
        raise BadInput(f"transformers cannot build '{config.model_type}': {one_line(error)}") from error


def _auto(config: PretrainedConfig) -> type:
    return AutoModelForTextEncoding if config.model_type in ENCODER_DECODERS else AutoModel


def net_from_name(name: str | None, pretrained: bool) -> PreTrainedModel:
    """The network in a folder or on the hub, with its weights or fresh ones.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    if not name:
        raise BadInput(
            "model=hf needs model.name=<the folder or hub id of a Hugging Face model>; text_model=hf text_settings.name"
        )
    try:
        config = AutoConfig.from_pretrained(name)
        if not pretrained:
            return build_net(config)
        return _auto(config).from_pretrained(name, **_WITHOUT_POOLER.get(config.model_type, {}))
    except (OSError, ValueError) as error:
        raise BadInput(f"model.name='{name}' cannot be loaded: {one_line(error)}") from error


@torch.no_grad()
def sees_later(net: PreTrainedModel) -> bool:
    """Whether a token sees those after it, found out by changing them.

    Names do not say it: some architectures go both ways, and each has a setting of its own for that.

    Raises:
        BadInput: the network does not read a row of tokens.
    """
    training = net.training
    net.eval()
    first, other = [token for token in range(3) if token != net.config.pad_token_id][:2]
    rows = ([first] * 8, [first] + [other] * 7)  # some architectures fold a few tokens into one
    try:
        before, after = (net(input_ids=torch.tensor([row])).last_hidden_state[0, 0] for row in rows)
    except (RuntimeError, TypeError, ValueError) as error:
        raise BadInput(f"'{net.config.model_type}' of transformers does not read a row of tokens: {one_line(error)}") from error
    net.train(training)
    return not torch.equal(before, after)


def make_decoder(net: PreTrainedModel, pretrained: str | None, dropout: float) -> "T5Stack":
    """The decoder half that belongs to an encoder, on the same token embedding.

    Args:
        pretrained: the name that the encoder's weights came from, or None for fresh ones.
        dropout: of the decoder.

    Raises:
        BadInput: the architecture has none.
    """
    config = net.config
    if config.model_type not in ENCODER_DECODERS:
        raise BadInput(f"the objective needs an encoder-decoder, which {config.model_type} is not; fits: t5_mini, t5_small")
    from transformers.models.t5.modeling_t5 import T5ForConditionalGeneration, T5Stack

    if pretrained:
        decoder = T5ForConditionalGeneration.from_pretrained(pretrained).decoder
    else:
        own = copy.deepcopy(config)
        own.is_decoder, own.use_cache, own.num_layers = True, False, config.num_decoder_layers
        decoder = T5Stack(own)
    set_dropout(decoder, dropout)
    decoder.embed_tokens = net.get_input_embeddings()
    return decoder


def make_generator(net: PreTrainedModel, width_ratio: float, embeddings: nn.Module, dropout: float) -> PreTrainedModel:
    """A narrower network of the same depth on the embedding layer of a discriminator (Clark et al. 2020, section 3.3).

    Args:
        net: the discriminator.
        width_ratio: of the generator's width to the discriminator's.
        embeddings: the discriminator's layer, or one like it.
        dropout: of the generator; the layer keeps its own.

    Raises:
        BadInput: the architecture is not known to share its embedding layer this way.
    """
    config = net.config
    width = max(8, round(config.hidden_size * width_ratio))
    heads = max(1, width // 64)
    width -= width % heads
    if config.model_type in ("bert", "electra"):
        generator, layer = _electra_generator(config, width, heads), embeddings  # which ELECTRA's network narrows itself
    elif config.model_type == "modernbert":
        narrow = copy.deepcopy(config)
        narrow.hidden_size, narrow.num_attention_heads = width, heads
        narrow.intermediate_size = max(8, round(config.intermediate_size * width_ratio))
        generator, layer = ModernBertModel(narrow), NarrowedEmbeddings(embeddings, width)
    else:
        raise BadInput(
            f"the objective needs a generator beside the encoder, which is not known for {config.model_type}; "
            "fits: bert_tiny, bert_mini, bert_small, bert_base, bert_large, modernbert_mini, modernbert_base"
        )
    set_dropout(generator, dropout)
    generator.embeddings = layer
    allow_places(generator)
    stop_guessing(generator)
    return generator


def stop_guessing(net: PreTrainedModel) -> None:
    """No more looking, where no mask is given, for padding, or for positions that begin anew: a GPU waits at every such look.

    Rows say what is padding, and masks which documents are kept apart.
    """
    net.warn_if_padding_and_no_attention_mask = _look_away
    net.forward = MethodType(_without_a_look(type(net).forward), net)


def _without_a_look(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def told(self: PreTrainedModel, *arguments: Any, **settings: Any) -> Any:
        look = masking_utils.find_packed_sequence_indices
        masking_utils.find_packed_sequence_indices = _look_away  # while this network asks: others may want to know
        try:
            return forward(self, *arguments, **settings)
        finally:
            masking_utils.find_packed_sequence_indices = look

    return told


def _look_away(*_: Tensor | None) -> None:
    pass


class NarrowedEmbeddings(nn.Module):
    """ModernBERT's embedding layer for a narrower network, as ELECTRA has it: a linear map behind it."""

    def __init__(self, embeddings: nn.Module, width: int):
        super().__init__()
        self.embeddings = embeddings
        self.project = nn.Linear(embeddings.tok_embeddings.embedding_dim, width)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)

    @property
    def tok_embeddings(self) -> nn.Embedding:
        return self.embeddings.tok_embeddings

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor:
        return self.project(self.embeddings(input_ids, inputs_embeds))


def _electra_generator(config: PretrainedConfig, width: int, heads: int) -> ElectraModel:
    return ElectraModel(
        ElectraConfig(
            vocab_size=config.vocab_size,
            embedding_size=getattr(config, "embedding_size", config.hidden_size),  # ELECTRA's may be narrower
            hidden_size=width,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            pad_token_id=config.pad_token_id,
            layer_norm_eps=config.layer_norm_eps,
        )
    )


@torch.no_grad()
def initialise_as_clip(net: PreTrainedModel) -> None:
    """The initial weights of CLIP's text tower (openai/CLIP, model.py, `initialize_parameters`), W wide and N blocks deep.

    Tokens N(0, 0.02), positions 0.01, attention W^-0.5, what returns to the residual stream W^-0.5 (2 N)^-0.5, and the first
    layer of the feed-forward net (2 W)^-0.5.

    Raises:
        BadInput: the architecture is not GPT-2's, which CLIP's text tower has.
    """
    config = net.config
    if config.model_type != "gpt2":
        raise BadInput(f"model.initialisation=clip is known for the architecture gpt2 only, not for {config.model_type}")
    attention = config.hidden_size**-0.5
    returning = attention * (2 * config.num_hidden_layers) ** -0.5
    stds = {net.wte: 0.02, net.wpe: 0.01}
    for block in net.h:
        stds |= {block.attn.c_attn: attention, block.attn.c_proj: returning}
        stds |= {block.mlp.c_fc: (2 * config.hidden_size) ** -0.5, block.mlp.c_proj: returning}
    for layer, std in stds.items():
        nn.init.normal_(layer.weight, std=std)


def set_dropout(net: nn.Module, rate: float) -> None:
    """The rate of all dropout inside `net`."""
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        for name in ("dropout", "attention_dropout", "dropout_rate"):  # kept as numbers by some architectures
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, rate)
