"""A child fails; its parent and its sister do not."""

#: '' -> 0
#:     'well\n' -> 0
#:     'ill\n' -> 7

import sys

from constellation import Resources, init, spawn


def well() -> None:
    print("well")


def ill() -> None:
    print("ill")
    sys.exit(7)


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    spawn(well, resources=Resources(mem="20 MiB")).block()
    spawn(ill, resources=Resources(mem="20 MiB")).block()
