"""Batches one after the other, loaded ahead by processes that may be lost, and outlive what the main one survives."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Dataset

from udaseg.data.batches.streams import Batch, Streams
from udaseg.errors import UserError
from udaseg.machine.signals import ignore_stopping


class _Told(Dataset[Batch | UserError]):
    """A UserError as an item: raised in a loader process, it would come wrapped into that one's traceback."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams

    def __getitem__(self, index: int) -> Batch | UserError:
        try:
            return self.streams[index]
        except UserError as error:
            return error


@contextmanager
def batches(streams: Streams, first: int, last: int, workers: int) -> Iterator[Iterator[Batch]]:
    """Batches number `first` up to but not including `last`, in order, loaded ahead by so many processes.

    Raises:
        UserError: a loader process was killed, while the body does whatever it does; or a file cannot be used.
    """
    # A generator of its own: creating the iterator would otherwise draw from the global one.
    generator = torch.Generator().manual_seed(0)
    loader: DataLoader[Batch | UserError] = DataLoader(
        _Told(streams), batch_size=None, sampler=range(first, last), num_workers=workers, generator=generator,
        worker_init_fn=ignore_stopping,
    )  # fmt: skip
    items = iter(loader)
    try:
        yield map(_sound, items)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that loads images ended ({str(error).rstrip('. ')}), most often because memory ran out. The "
            "last checkpoint is kept, and the same command again goes on from it; lower train.workers before, with 0 "
            "of which training loads its images itself"
        ) from None
    finally:
        if workers:
            # Left to the interpreter's end, which sends SIGTERM and waits, they would never end.
            items._shutdown_workers()  # type: ignore[attr-defined]


def _sound(item: Batch | UserError) -> Batch:
    if isinstance(item, UserError):
        raise item
    return item
