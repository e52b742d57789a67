"""Programs that send Arrow and NumPy data, and what memory that takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def said(ran: subprocess.CompletedProcess[str]) -> list[str]:
    """What the first process printed."""
    return [line.strip() for line in ran.stdout.splitlines() if line.startswith("    ") and "exited" not in line]


def test_program_sends_tables_batches_and_arrays(run_program: Run) -> None:
    """Alone and within plain values, small and large, there and back; plugin and serializer named by the program."""
    ran = run_program(
        """
        import numpy as np
        import pyarrow as pa
        from constellation import Receiver, SerializationError, Sender, init, parent, spawn

        def child():
            answers, questions = Sender[object](parent()), Receiver[object](parent())
            for value in questions:
                answers.send(value).block()

        if __name__ == "__main__":
            init(plugins=["arrow"], serializer="arrow")
            process = spawn(child).block()
            with Sender[object](process) as there:
                back = Receiver[object](process)
                table = pa.table({"n": range(100_000), "s": [str(n) for n in range(100_000)]})
                for value in (table, table.slice(77_777, 5), table.to_batches()[0], table["s"], table.schema):
                    there.send(value).block()
                    print(back.recv().block().equals(value))
                there.send({"small": (np.arange(3), 5), "large": [np.ones((1000, 1000))]}).block()
                value = back.recv().block()
                value["large"][0] += 1
                print(value["small"], value["large"][0].sum())
                for number in range(3000):
                    there.send((number, np.full(number % 7, number))).block()
                print(sum(back.recv().block()[0] for _ in range(3000)))
                try:
                    there.send({"a": [{1, 2}]}).block()
                except SerializationError as error:
                    print(error)
        """
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert said(ran) == [
        *["True"] * 5,
        "(array([0, 1, 2]), 5) 2000000.0",
        "4498500",
        "value['a'][0]: the serializer arrow takes no set: only plain values, Arrow and NumPy data; use the serializer pickle",
    ]


def test_neither_process_takes_memory_for_a_copy(run_program: Run) -> None:
    """Of 200 MB the sender takes nothing, as its process knows only the original, the receiver those 200 MB once.

    Each process looks at its peak of private memory. A copy on either side would add 200 MB there.
    """
    ran = run_program(
        """
        import numpy as np
        import pyarrow as pa
        from constellation import Receiver, Sender, init, parent, spawn

        MB = 1 << 20
        SIZE = 200 * MB

        def peak():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

        def reset():
            with open("/proc/self/clear_refs", "w") as refs:
                refs.write("5")

        def make(kind):
            numbers = np.arange(SIZE // 8)
            if kind == "numpy":
                return numbers
            if kind == "datetime":
                return numbers.view("M8[us]")
            table = pa.table({"n": numbers})
            return table.slice(0, SIZE // 8) if kind == "table" else table.to_batches()[0]

        def child(kind):
            value = make(kind)
            sender = Sender[object](parent())
            sender.send(0).block()
            reset()
            before = peak()
            sender.send(value).block()
            sender.send((peak() - before) // MB).block()

        if __name__ == "__main__":
            init(plugins=["arrow"], serializer="arrow")
            for kind in ("numpy", "datetime", "table", "batch"):
                receiver = Receiver[object](spawn(child, kind).block())
                receiver.recv().block()
                reset()
                before = peak()
                value = receiver.recv().block()
                own = (peak() - before) // MB
                print(kind, receiver.recv().block() < 20, 180 < own < 220, own, value.nbytes == SIZE)
                del value
                receiver.close()
        """
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    lines = [line.split() for line in said(ran)]
    assert [line[0] for line in lines] == ["numpy", "datetime", "table", "batch"]
    assert all(line[1] == "True" and line[4] == "True" for line in lines)
    assert lines[0][2] == "True"
    # The others are read into the memory that the first one gave back: nothing is added at all.
    assert all(int(line[3]) < 220 for line in lines)


def test_serializer_is_enabled_on_the_command_line(run_program: Run) -> None:
    """The program names the serializer, the command line the plugin."""
    ran = run_program(
        """
        import pyarrow as pa
        from constellation import Receiver, Sender, init, pid

        if __name__ == "__main__":
            init(serializer="arrow")
            Sender[pa.Table](pid()).send(pa.table({"x": [1, 2]})).block()
            print(Receiver[pa.Table](pid()).recv().block().to_pydict())
        """,
        command=(sys.executable, "-m", "constellation", "run", "--plugin", "arrow"),
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert said(ran) == ["{'x': [1, 2]}"]
