"""Loading weights that must fit exactly: what is missing or unexpected is an error that names it."""

from torch import Tensor, nn

from errors import BadInput


def load_strictly(module: nn.Module, weights: dict[str, Tensor], what: str) -> None:
    """Load weights; a name may only be missing where the same tensor also goes by another, present name (tied weights).

    Raises:
        BadInput: names or shapes differ; the first differences are named.
    """
    own = module.state_dict()
    loaded = {own[name].data_ptr() for name in weights if name in own}
    wrong = [f"{name} is missing" for name in own if name not in weights and own[name].data_ptr() not in loaded]
    wrong += [f"{name} is unexpected" for name in weights if name not in own]
    wrong += [
        f"{name} has shape {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ]
    if wrong:
        raise BadInput(f"the weights do not fit {what}: {'; '.join(wrong[:3])} ({len(wrong)} differences)")
    module.load_state_dict(weights, strict=False)
