"""The first process ends with an exception that nobody catches."""

#: '' err r'Traceback .*\nRuntimeError: qwertyuiop\n' -> 1

from constellation import Resources, init

if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    raise RuntimeError("qwertyuiop")
