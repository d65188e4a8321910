"""Configurations beyond the one that a command is started with."""

from collections.abc import Sequence
from typing import Any

from conf import CONF, choices_of

COMPARISON = "comparison"  # the name under which Hydra knows conf/compare.yaml


def compose_settings(command: str, words: Sequence[str], complete: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
    """(the resolved settings, group -> choice) of `python <command>.py <words>`, without running it.

    Args:
        complete: whether settings that must be given have to be there; else they are "???".

    Raises:
        HydraException or OmegaConfBaseException: no such setting or choice, or one that must be given is not.
    """
    from hydra import compose, initialize, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf, open_dict

    GlobalHydra.instance().clear()  # the caller's own configuration is composed already
    if command == "compare":
        store_comparison()
        command, source = COMPARISON, initialize(None, version_base="1.3")
    else:
        source = initialize_config_dir(str(CONF), version_base="1.3")
    with source:
        config = compose(command, overrides=list(words), return_hydra_config=True)
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=complete), choices


def store_comparison() -> None:
    """Give Hydra the configuration of compare.py and its plans, but no other groups.

    In a comparison `model=vit_t` is a name, maybe one of several; where Hydra knows a group `model` it would be a choice.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store, config = ConfigStore.instance(), OmegaConf.load(CONF / "compare.yaml")
    OmegaConf.set_struct(config.settings, False)  # its entries are whatever names a plan has words for
    store.store(COMPARISON, config)
    for name in choices_of("plan"):
        store.store(name, OmegaConf.load(CONF / "plan" / f"{name}.yaml"), group="plan", package="_global_")
