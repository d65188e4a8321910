"""One command, several processes: this one starts a rank a device and watches them; each job of a sweep has its own.

Ranks are this machine's. Those of several machines are started from outside, by torchrun or srun.
"""

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from errors import BadInput, RunStopped
from training.ranks import ranks_wanted, started_ranks

GRACE = 300  # seconds in which ranks that were asked to stop may finish their step and save


def launched(settings: dict[str, Any], words: list[str], folder: str | Path, is_sweep: bool) -> bool:
    """Start the ranks of the config node `trainer` and wait for them, where nobody has started them; says whether it did.

    Args:
        words: of the command line of this run.
        folder: of this run.
        is_sweep: whether this run is one of a sweep.

    Raises:
        BadInput: several nodes, or a sweep that every rank would run again.
        RunStopped: a rank failed.
    """
    wanted, started = ranks_wanted(settings), started_ranks()
    if started is not None and started.size > 1:
        if is_sweep:
            strategy = "ddp" if settings["strategy"] == "auto" else settings["strategy"]
            raise BadInput(
                "every rank would run the whole sweep; start -m with plain python, which starts the ranks of each job itself: "
                f"python train.py -m trainer={strategy} trainer.devices={started.local_size} ..."
            )
        return False
    if settings["num_nodes"] > 1:
        raise BadInput("several nodes need one process a device on each, started by torchrun or srun (docs/scaling.md)")
    if started is not None or wanted == 1:
        return False
    launch(wanted, words, folder)
    return True


def launch(devices: int, words: list[str], folder: str | Path) -> None:
    """Run this script again, once a rank, with these words and in this folder; returns when all ranks are done.

    Raises:
        RunStopped: a rank failed, and the others were ended; or a signal ended them all.
    """
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    for name in list(logging.root.manager.loggerDict):  # they repeat at length what is said below
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_a_rank(devices)))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)}
    command = (str(Path(sys.argv[0]).resolve()), *words, f"hydra.run.dir='{folder}'")
    rendezvous = get_rendezvous_handler(RendezvousParameters("c10d", "localhost:0", str(os.getpid()), min_nodes=1, max_nodes=1))
    ranks = WorkerSpec("rank", devices, rendezvous, entrypoint=sys.executable, args=command, max_restarts=0)
    with tempfile.TemporaryDirectory() as logs:
        try:
            done = LocalElasticAgent(ranks, DefaultLogsSpecs(log_dir=logs), shutdown_timeout=GRACE).run()
        except SignalException as error:
            raise RunStopped(
                f"stopped by {error.sigval.name}; what the ranks saved stands above", 128 + error.sigval
            ) from error
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            # torch's own launcher leaves it open after a signal; its thread, in a call when Python ends, aborts the process
            rendezvous.shutdown()
    if done.is_failed():
        rank, failure = ChildFailedError("", done.failures).get_first_failure()
        code = failure.exitcode
        how = f"with exit code {code}" if code > 0 else f"by {signal.Signals(-code).name}{_likely(-code)}"
        raise RunStopped(
            f"rank {rank} of {devices} ended {how}, and the others with it; its own message stands above",
            code if code > 0 else 128 - code,
        )


def threads_a_rank(devices: int) -> int:
    """A share of the cores that this process may use, in a container fewer than the machine has."""
    from joblib import cpu_count

    return max(1, cpu_count() // devices)


def _likely(number: int) -> str:
    return " (as the kernel does to the largest process when memory runs out)" if number == signal.SIGKILL else ""
