"""Arguments and environment of a spawned process are those of its parent."""

#: arguments ['one', 'two three', '']
#: '' -> 0
#:     2 x '' -> 0

import os
import sys

from constellation import Resources, init, spawn


def child(arguments: list[str], environment: dict[str, str]) -> None:
    assert sys.argv == arguments, (sys.argv, arguments)
    assert dict(os.environ) == environment, set(os.environ.items()) ^ set(environment.items())


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    assert sys.argv[1:] == ["one", "two three", ""]
    for _ in range(2):
        spawn(child, sys.argv, dict(os.environ), resources=Resources(mem="20 MiB")).block()
