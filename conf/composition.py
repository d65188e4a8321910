"""What a command line would be configured as, without running it."""

from collections.abc import Sequence
from typing import Any

from conf import CONF


def compose_settings(command: str, words: Sequence[str], complete: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
    """(the resolved settings, group -> choice) of `python <command>.py <words>`.

    Args:
        complete: whether settings that must be given have to be there; else they are "???".

    Raises:
        HydraException or OmegaConfBaseException: no such setting or choice, or one that must be given is not.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf, open_dict

    GlobalHydra.instance().clear()  # the caller's own configuration is composed already
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(command, overrides=list(words), return_hydra_config=True)
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=complete), choices
