"""The first process aborts, after a last word."""

#: '' err r'qwertyuiop\nFatal Python error: Aborted.*' -> SIGABRT

import os
import resource
import sys

from constellation import Resources, init

if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("qwertyuiop", file=sys.stderr)
    os.abort()
