"""Memory for large values: the final place, taken once, huge pages where the kernel gives them.

A large message that is bytes must end as a bytes object without a second copy. `io.BytesIO(bytes(n))` shares the zeroed
(not yet touched) object, `getbuffer` gives a writable view of it while nobody else holds it, and `getvalue` hands the
very object out. Buffers that travel beside a pickle lie in anonymous maps, from a pool whose blocks are used again only
when no view of them is alive: touching fresh memory costs as much as four copies.
"""

from __future__ import annotations

import io
import mmap
import sys

_HUGE = 4 << 20
"""From here on, ask for huge pages: one fault for 2 MiB instead of 512."""

_POOL_BYTES = 256 << 20
_POOL_BLOCKS = 16
_ALONE = 3  # the pool's list, the local name and the argument of getrefcount


class BytesRoom:
    """Room for one bytes object, filled through `view`."""

    __slots__ = ("_stream", "view")

    def __init__(self, size: int) -> None:
        self._stream = io.BytesIO(bytes(size))
        self.view = self._stream.getbuffer()
        if size >= _HUGE:
            _ask_for_huge_pages(self.view)

    def give_up(self) -> None:
        """It is never filled. Else a stream that is found by the garbage collector complains of its view (Python 3.13)."""
        try:
            self.view.release()
        except BufferError:  # somebody is just writing into it
            pass

    def finish(self) -> bytes:
        """The bytes object; `view` is of no further use."""
        self.view.release()
        return self._stream.getvalue()


class Pool:
    """Blocks of anonymous memory, used again when no view of them is alive."""

    def __init__(self) -> None:
        self._blocks: list[mmap.mmap] = []

    def take(self, size: int) -> memoryview:
        """A writable view of ``size`` bytes of undefined content."""
        if not size:
            return memoryview(bytearray())
        for block in self._blocks:
            # A view, and whatever was made of it, keeps its block alive by a reference.
            if size <= len(block) <= 2 * size and sys.getrefcount(block) == _ALONE:
                return memoryview(block)[:size]
        block = mmap.mmap(-1, size)
        if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            block.madvise(mmap.MADV_HUGEPAGE)
        self._blocks.append(block)
        while len(self._blocks) > _POOL_BLOCKS or (sum(map(len, self._blocks)) > _POOL_BYTES and len(self._blocks) > 1):
            del self._blocks[0]  # its views keep it alive as long as they need it
        return memoryview(block)[:size]


def _ask_for_huge_pages(view: memoryview) -> None:
    """Advise the kernel about memory that CPython has taken; without effect where ctypes or madvise is not there."""
    try:
        import ctypes

        first = ctypes.c_char.from_buffer(view)
        address = ctypes.addressof(first)
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (address + len(view) - start) // mmap.PAGESIZE * mmap.PAGESIZE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    except (ImportError, AttributeError, OSError):
        return
