"""Batches in order, loaded ahead by worker processes: their faults are reported, and they ignore stop signals."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Dataset

from udaseg.data.batches.streams import Batch, Streams
from udaseg.errors import UserError
from udaseg.machine.signals import ignore_stopping


class _Reported(Dataset[Batch | UserError]):
    """Returns a UserError as an item: raised in a worker process, it would arrive wrapped in that one's traceback."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams

    def __getitem__(self, index: int) -> Batch | UserError:
        try:
            return self.streams[index]
        except UserError as error:
            return error


@contextmanager
def batches(streams: Streams, first: int, last: int, workers: int) -> Iterator[Iterator[Batch]]:
    """Batches number `first` up to but not including `last`, in order, loaded ahead by `workers` processes.

    Raises:
        UserError: a worker process was killed (raised wherever the body is then), or a file cannot be used.
    """
    # With a generator of its own: creating the iterator would otherwise draw from the global one.
    generator = torch.Generator().manual_seed(0)
    loader: DataLoader[Batch | UserError] = DataLoader(
        _Reported(streams), batch_size=None, sampler=range(first, last), num_workers=workers, generator=generator,
        worker_init_fn=ignore_stopping,
    )  # fmt: skip
    items = iter(loader)
    try:
        yield map(_sound, items)
    except (RuntimeError, ConnectionError) as error:  # the latter when it ends while it hands a batch over
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that loads images ended ({str(error).rstrip('. ')}), most often because memory ran out. The "
            "last checkpoint is kept: lower train.workers (with 0, training loads its images itself) and run the same "
            "command again to resume"
        ) from None
    finally:
        if workers:
            # At its end the interpreter sends SIGTERM and waits; the workers ignore it and would never end.
            items._shutdown_workers()  # type: ignore[attr-defined]


def _sound(item: Batch | UserError) -> Batch:
    if isinstance(item, UserError):
        raise item
    return item
