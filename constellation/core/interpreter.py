"""How an interpreter of ours begins: isolated (``-I``), so that nothing of the user's decides what it imports.

The package is found by the folder that this very copy lies in, and that folder is searched for nothing else before the
standard library is.
"""

from __future__ import annotations

import os
from types import ModuleType

import constellation

_PREFACE = """\
import sys
sys.path.insert(0, {folder!r})
import constellation
del sys.path[0]
sys.path += [folder for folder in {others!r} if folder not in sys.path]
"""


def preface(*needed: ModuleType) -> str:
    """The first lines of a program for ``python -I -c``: after them this copy of the package can be imported.

    Args:
        needed: Packages of others that it needs from its first import on; they are found as they were here.
    """
    folders = [_folder_of(module) for module in (constellation, *needed)]
    return _PREFACE.format(folder=folders[0], others=list(dict.fromkeys(folders)))


def _folder_of(package: ModuleType) -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(package.__file__ or "")))
