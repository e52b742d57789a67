"""The first process comes to the end of its program."""

#: '' -> 0

from constellation import Resources, init

if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
