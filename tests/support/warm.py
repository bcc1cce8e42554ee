"""Commands that start warm: forked from a process that has loaded the libraries, which is most of a short job's time.

For tests of what a workflow does. How a process starts, dies or chooses its CPU instructions is tested with processes
that were started as users start them.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = (
    *("torch._dynamo", "torchvision", "safetensors.torch", "pandas", "matplotlib.pyplot", "scipy.special"),
    *("snakemake.cli", "mlflow.store.tracking.sqlalchemy_store", "dvc.repo", "dvc.repo.reproduce", "dvc.cli.parser"),
)
# These hold NumPy to fewer instructions before they load it.
COLD = ("download", "prepare")
MODULES = {"python": "", "udaseg": "-m udaseg.cli.main", "snakemake": "-m snakemake", "dvc": "-m dvc"}


@functools.cache
def warm_commands() -> Path:
    """A folder with `python`, `udaseg`, `snakemake` and `dvc`, served as long as this process lives."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    atexit.register(shutil.rmtree, folder)
    this = shlex.join([sys.executable, "-IS", __file__, str(folder)])
    for name, module in MODULES.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {this} ask {module} "$@"\n')
        (folder / name).chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, str(folder), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    return folder


def ask(folder: Path, arguments: list[str]) -> None:
    """Be the command: lend it the standard streams, wait, and end as it ends. Whoever kills this process kills it."""
    if arguments[0] != "-m" or (arguments[1] == "udaseg.cli.main" and arguments[2] in COLD):
        os.execv(sys.executable, [sys.executable, *arguments])
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(str(folder / "socket"))
        wish = {"arguments": arguments[1:], "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(server, [json.dumps(wish).encode()], [0, 1, 2])
        status = os.waitstatus_to_exitcode(int(server.recv(100)))
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


def serve(folder: Path) -> None:
    """Fork for each command, until whoever started this ends."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    ending = Ending()
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()  # else the collector touches, and so copies, all that is shared
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            client, _ = listener.accept()
            if not os.fork():
                break
            client.close()
        else:
            return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(client, 1 << 18, 3)
    if child := os.fork():
        wait(client, child)
    client.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    begin(folder, ending, **json.loads(message))


def wait(client: socket.socket, child: int) -> None:
    """Tell the client how the command ended, or kill the command when the client is gone."""
    end = os.pidfd_open(child)
    if end not in select.select([client, end], [], [])[0]:
        os.kill(child, signal.SIGKILL)
        os._exit(1)
    client.sendall(str(os.waitpid(child, 0)[1]).encode())
    os._exit(0)


class Ending:
    """The last of all exits: without taking the libraries apart, which takes longer than a short job."""

    def __init__(self) -> None:
        self.status = 1  # after a traceback
        atexit.register(self)

    def __call__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.status)


def begin(commands: Path, ending: Ending, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Run a module as `python -m` does. What it starts by `sys.executable` starts warm, too."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.executable = str(commands / "python")
    sys.path[0:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = arguments
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        ending.status = 0
    except SystemExit as end:
        ending.status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


if __name__ == "__main__":
    _, place, work, *rest = sys.argv
    ask(Path(place), rest) if work == "ask" else serve(Path(place))
