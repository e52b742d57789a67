"""The chunks of programs on one computer: where the bridge puts them, and the master and its node find them.

There is a store for each owner. Nobody gets a chunk of another owner by knowing its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from constellation.core.bundle import Manifest
from constellation.fabric.bundle import bundle_limit, outline_chunks, read_outline
from constellation.fabric.store import Store

KEPT: Final = 4 << 30
"""Bytes of chunks that an owner's store keeps when nobody needs them; those that were used longest ago go first."""

MOST_AT_ONCE: Final = 1 << 16
"""Chunks that a client is asked for at a time, so that the list of them fits in one message."""


class Depot:
    """All stores of a daemon's folder.

    Args:
        folder: The daemon's.
    """

    def __init__(self, folder: str) -> None:
        self._folder = os.path.join(folder, "store")
        self._stores: dict[str, Store] = {}
        self.limit = bundle_limit(os.environ)

    def store(self, owner: str) -> Store:
        """The store of an owner.

        Raises:
            DeployError: Its folder cannot be made.
        """
        store = self._stores.get(owner)
        if store is None:
            store = self._stores[owner] = Store(os.path.join(self._folder, folder_of(owner)))
        return store

    def missing(self, owner: str, manifest: list[Any]) -> dict[bytes, int]:
        """Say which chunks of a program are not here, with their sizes: of its list of files first, then of those.

        Raises:
            ValueError: It is no list of files, or breaks a rule.
            DeployError: The store cannot be used.
        """
        store = self.store(owner)
        sizes = {chunk.digest: chunk.size for chunk in outline_chunks(manifest, limit=self.limit)}
        lacking = store.missing(sizes)
        if not lacking:
            try:
                sizes = self.read_manifest(owner, manifest).chunks()
            except KeyError as error:  # it was broken on the disk, and is missing now
                lacking = [error.args[0]]
            else:
                lacking = store.missing(sizes)
        return {digest: sizes[digest] for digest in islice(lacking, MOST_AT_ONCE)}

    def read_manifest(self, owner: str, manifest: list[Any]) -> Manifest:
        """The list of files, whose chunks are here.

        Raises:
            ValueError: It is none, or breaks a rule.
            KeyError: A chunk is not here.
        """
        store = self.store(owner)
        chunks = outline_chunks(manifest, limit=self.limit)
        return read_outline((store.read(chunk.digest) for chunk in chunks), limit=self.limit)

    def put(self, owner: str, digest: bytes, data: bytes) -> None:
        """Keep a chunk.

        Raises:
            ValueError: It is not what its name says.
            DeployError: It cannot be written.
        """
        self.store(owner).put(digest, data)

    def read(self, owner: str, digest: bytes) -> bytes | None:
        """A chunk; None if it is not here.

        Raises:
            DeployError: It cannot be read.
        """
        try:
            return self.store(owner).read(digest)
        except KeyError:
            return None

    def hold(self, owner: str, manifest: list[Any]) -> Callable[[], None]:
        """Keep all chunks of a program until the function that this gives is called.

        Raises:
            ValueError: It is no list of files.
            DeployError: The store cannot be used.
        """
        held = {chunk.digest for chunk in outline_chunks(manifest, limit=self.limit)}
        with contextlib.suppress(KeyError):
            held |= self.read_manifest(owner, manifest).chunks().keys()
        stack = contextlib.ExitStack()
        stack.enter_context(self.store(owner).hold(held))
        return stack.close

    def trim(self, owner: str) -> None:
        """Throw away what nobody needs, where there is too much of it."""
        self.store(owner).trim(max(KEPT, 2 * self.limit))


def folder_of(owner: str) -> str:
    """The name of an owner's folder."""
    return hashlib.blake2b(owner.encode(), digest_size=16).hexdigest()
