"""Reads a large source in a process of its own, which parses, checks and normalizes the rows while this process curates those before.

The rows, their order and the errors are those of `read_source`, so nothing else depends on where they were read. Only a few batches of
rows are under way at a time: the other process waits while its pipe is full. Must never outlive the process that asks for the rows.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection

from configs.errors import LoopError
from rewards.data.reading import ReadRow, read_source
from rewards.data.sources import Source
from rewards.data.unusable import Unusable

LARGE = 64 << 20
"""From how many bytes on a source is read ahead. A process needs a second or two to start, in which 20 MB can be read."""
BATCH = 256
"""How many rows are sent at once."""


def read_rows(source: Source, is_normalized: bool) -> Iterator[ReadRow | Unusable]:
    """Each row of one source, in order, as `read_source` gives it; of large files by another process, if there is a core for it."""
    if source.kind == "file" and (os.cpu_count() or 1) > 1 and sum(map(os.path.getsize, source.files)) >= LARGE:
        return read_ahead(source, is_normalized)
    return read_source(source, is_normalized)


def read_ahead(source: Source, is_normalized: bool) -> Iterator[ReadRow | Unusable]:
    """The rows of `read_source` from another process. Raises what that raises, and LoopError if the process dies."""
    context = multiprocessing.get_context("spawn")  # a copy of a process with threads may wait for a lock forever
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send_rows, args=(there, source, is_normalized), name=f"reads {source.name}", daemon=True)
    process.start()
    there.close()
    try:
        while isinstance(batch := here.recv(), list):
            yield from batch
        if batch is not None:
            raise batch
    except EOFError:
        process.join()
        what = f"the process that reads {source.name} was ended (exit code {process.exitcode}), perhaps because memory ran out"
        raise LoopError(f"{what}: run the same command again") from None
    finally:
        here.close()
        process.kill()
        process.join()


def _send_rows(there: Connection, source: Source, is_normalized: bool) -> None:
    """What the other process does: send batches of rows, and at the end an error or None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes, and the one that asks for the rows ends this one
    batch: list[ReadRow | Unusable] = []
    end = None
    with suppress(BrokenPipeError):  # nobody asks any more
        try:
            for row in read_source(source, is_normalized):
                batch.append(row)
                if len(batch) == BATCH:
                    there.send(batch)
                    batch = []
        except BrokenPipeError:
            raise
        except Exception as error:
            end = error
        there.send(batch)
        there.send(end)
