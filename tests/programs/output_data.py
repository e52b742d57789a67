"""Output is bytes, each of them comes through as it is."""

#: bytes -> 0

import sys

from constellation import Resources, init

if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    sys.stdout.buffer.write(bytes(range(256)))
