"""CLIP beside open_clip's model and loss in the loop of its training script: the same towers, pictures and captions.

open_clip computes every place up to the context's end, this project those up to the longest caption of a batch; here the
longest caption fills the context, so both compute as many.
"""

import math

import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from benchmarks.cases.case import Case, Peer
from benchmarks.gate import Gate
from benchmarks.peers import plain_loop
from benchmarks.works import SEP, Work
from objectives.objective import Batch


def open_clip(gate: Gate, work: Work, precision: str) -> None:
    own = work.build()
    image, text = own.encoder, own.text_encoder.net.config
    model = CLIP(
        own.head.image.out_features,
        CLIPVisionCfg(
            layers=len(image.net.blocks), width=image.width, head_width=image.width // image.net.blocks[0].attn.num_heads,
            patch_size=image.patch_size, image_size=work.image_size,
        ),
        CLIPTextCfg(
            context_length=work.length, vocab_size=work.vocabulary, width=text.n_embd, heads=text.n_head, layers=text.n_layer,
            pool_type="eos", eos_id=SEP,
        ),
        quick_gelu=True,
        output_dict=True,
    )  # fmt: skip
    criterion, mean, std, batches = ClipLoss(), image.mean, image.std, work.batches(own)
    del own, image  # or their weights would count as the peer's memory

    def loss(batch: Batch) -> Tensor:
        pictures = (batch["views"][:, 0].float() / 255 - mean) / std
        return criterion(**model(pictures, batch["ids"]))

    @torch.no_grad()
    def clamp() -> None:
        model.logit_scale.clamp_(0, math.log(100))

    plain_loop(gate, [model], loss, batches, precision, after_step=clamp)


def towers(depth: int, text_depth: int, length: int) -> tuple[str, ...]:
    """Two towers like CLIP's, as wide as ViT-T, and no more positions than captions have."""
    text = f"width:192,depth:{text_depth},heads:3,feedforward:768"
    positions = f"activation_function:quick_gelu,max_position_embeddings:{length}"
    return (
        f"model.depth={depth}", "model.positions=learned", "model.pool=token", "+model.settings={pre_norm:true}",
        "objective.text_model=clip_text", f"objective.text_settings={{{text}}}", "objective.text_pool=end",
        f"+objective.text_settings.settings={{{positions}}}",
    )  # fmt: skip


CASES = {
    "clip": Case(
        Work("clip", "vit_t", batch=128, image_size=64, length=32, vocabulary=49408, words=towers(6, 4, 32)),
        Work("clip", "vit_t", batch=4, image_size=32, length=8, vocabulary=64, words=towers(1, 1, 8)),
        {"open_clip": Peer(open_clip, "open_clip's model and loss in a plain loop", 1.6)},
    )
}
