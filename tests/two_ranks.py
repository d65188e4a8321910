"""Two real processes that are connected by gloo, kept for all tests: starting them takes longer than most tests."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

SIZE = 2
PATIENCE = 500  # seconds of a test


class TwoRanks:
    """Calls a function of a test module on both ranks at once."""

    def __init__(self) -> None:
        self.lines: list[Connection] = []
        self.processes: list[multiprocessing.Process] = []

    def start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fits"])  # what both need is imported once
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        for rank in range(SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, port, theirs), daemon=True)
            process.start()
            self.lines.append(ours)
            self.processes.append(process)

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """[what the function returned on each rank]; what it raised comes out as an AssertionError."""
        if not self.lines:
            self.start()
        for line in self.lines:
            line.send((function, arguments))
        answers, complaints = [], []
        for rank, line in enumerate(self.lines):
            good, answer = line.recv() if line.poll(10 if complaints else PATIENCE) else (False, "no answer")
            (answers if good else complaints).append(answer if good else f"rank {rank}: {answer}")
        if complaints:
            self.end()  # the other one may wait for ever
        assert not complaints, "\n".join(complaints)
        return answers

    def end(self) -> None:
        for process in self.processes:
            process.kill()
        self.lines, self.processes = [], []


def _serve(rank: int, port: int, line: Connection) -> None:
    import torch
    import torch.distributed as dist

    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": SIZE, "LOCAL_WORLD_SIZE": SIZE, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    while True:
        function, arguments = line.recv()
        try:
            line.send((True, function(*arguments)))
        except BaseException:
            line.send((False, traceback.format_exc()))
