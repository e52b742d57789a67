"""The first process ends itself with 0."""

#: '' -> 0

import sys

from constellation import Resources, init

if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    sys.exit(0)
