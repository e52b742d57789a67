"""What is read from the kernel about this process."""

from __future__ import annotations

import ctypes
import threading

from constellation.process import kernel

_PR_SET_NAME = 15


def counted_beside(name: str) -> int:
    """Threads that are counted while one of that name waits, without those that the test runner has."""
    before, ready, done = kernel.thread_count(), threading.Event(), threading.Event()

    def wait() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
        ready.set()
        done.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    try:
        return kernel.thread_count() - before
    finally:
        done.set()
        thread.join()


def test_threads_of_libraries_are_counted() -> None:
    """By the kernel's word: Python's own knows only its own."""
    assert counted_beside("worker") == 1


def test_a_thread_that_forks_leave_whole_is_not_counted() -> None:
    """An allocator's background thread, which comes with an import and stays, does not keep a program from forking."""
    assert counted_beside("jemalloc_bg_thd") == 0
