"""The first process ends itself with a code of its own."""

#: '' -> 123

import sys

from constellation import Resources, init

if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    sys.exit(123)
