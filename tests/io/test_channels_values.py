"""What goes through a channel: every size at which something changes, every kind that travels in its own way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RunProgram
from tests.io.channel_programs import passes


def test_bytes_bytearray_and_memoryview_of_every_size(run_program: RunProgram, tmp_path: Path) -> None:
    """0, 1, around the frame, the chunk and the credit; type and content the same; one after another and as a stream."""
    source = """
        credit = 4 << 20
        sizes = [0, 1, 4096, 4097, 65535, 65536, 65537, 262143, 262144, 262145, 3 * 262144, credit - 1, credit, credit + 1]
        kinds = [bytes, bytearray, lambda data: memoryview(bytearray(data)), lambda data: memoryview(data)]
        data = os.urandom(credit + 1)
        def child():
            s = Sender(parent())
            for kind in kinds:
                for size in sizes:
                    s.send(kind(data[:size])).block()
            for size in sizes:
                s.send({"a": data[:size], "b": (bytearray(data[:size]), size)}).block()
                s.send("x" * size).block()
        init()
        r = Receiver(spawn(child).block())
        for kind in kinds:
            for size in sizes:
                value, wanted = r.recv().block(), kind(data[:size])
                assert type(value) is type(wanted) and value == wanted, (type(wanted), size, type(value))
        for size in sizes:
            assert r.recv().block() == {"a": data[:size], "b": (bytearray(data[:size]), size)}
            assert r.recv().block() == "x" * size
        assert list(r) == []
    """
    passes(run_program, tmp_path, source)


def test_what_arrives_is_the_receivers_own(run_program: RunProgram, tmp_path: Path) -> None:
    """bytearrays and arrays are writable and stay as they are while more values come."""
    source = """
        import numpy as np
        def child():
            s = Sender(parent())
            for n in range(40):
                s.send(bytearray([n]) * 100_000).block()
                s.send(np.full(100_000, n)).block()
        init()
        r = Receiver(spawn(child).block())
        got = []
        for n in range(40):
            one, two = r.recv().block(), r.recv().block()
            one[0], two[0] = 255, -1
            got.append((one, two))
        for n, (one, two) in enumerate(got):
            assert one[0] == 255 and one[1:] == bytes([n]) * 99_999
            assert two[0] == -1 and (two[1:] == n).all()
    """
    passes(run_program, tmp_path, source)


def test_buffers_of_every_size_travel_beside_the_pickle(run_program: RunProgram, tmp_path: Path) -> None:
    """Also where pickle and buffers together would fit into one frame: they arrive as what they were."""
    source = """
        import numpy as np
        sizes = [0, 1, 16383, 16384, 16385, 40_000, 65_000, 65_536, 65_537, 200_000]
        def values():
            for size in sizes:
                yield np.full(size, 7, np.uint8)
                yield [np.full(size // 2, 7, np.uint8), {"a": np.full(size // 2, 8, np.uint8)}, size]
        def child():
            s = Sender(parent())
            for value in values():
                s.send(value).block()
            for value in values():
                s.try_send(value)
        init()
        r = Receiver(spawn(child).block())
        for value in [*values(), *values()]:
            came = r.recv().block()
            if isinstance(value, list):
                assert (came[0] == value[0]).all() and (came[1]["a"] == value[1]["a"]).all() and came[2] == value[2]
            else:
                assert (came == value).all() and came.shape == value.shape
        assert list(r) == []
    """
    passes(run_program, tmp_path, source)


def test_arrays_of_numpy(run_program: RunProgram, tmp_path: Path) -> None:
    """Contiguous or not, in Fortran's order, read-only, empty, of objects, many in one value: equal in all respects."""
    source = """
        import numpy as np
        def arrays():
            base = np.arange(600_000, dtype=np.int32).reshape(600, 1000)
            fixed = np.arange(50_000.0); fixed.flags.writeable = False
            return [
                base, base[::2, ::3], np.asfortranarray(base), base.T, fixed, np.zeros(0), np.array(5), np.zeros((3, 0, 2)),
                np.array(["a", None, 3], dtype=object), np.arange(10_000).astype("datetime64[s]"), base[:1], base.astype(">i4"),
                np.zeros(70_000, dtype=[("x", "i4"), ("y", "f8")]), np.float64(3.5), np.ma.masked_array([1, 2], [0, 1]),
            ]
        def child():
            s = Sender(parent())
            for array in arrays():
                s.send(array).block()
            s.send([np.full(n * 100, n) for n in range(300)]).block()
            s.send({n: np.full(3, n) for n in range(5000)}).block()
        init()
        r = Receiver(spawn(child).block())
        for wanted in arrays():
            value = r.recv().block()
            assert type(value) is type(wanted) and value.dtype == wanted.dtype and value.shape == wanted.shape
            assert np.array_equal(value, wanted), wanted
            if isinstance(value, np.ndarray):
                assert value.flags.writeable == wanted.flags.writeable, wanted.flags
        many = r.recv().block()
        assert len(many) == 300 and all((each == n).all() and len(each) == n * 100 for n, each in enumerate(many))
        more = r.recv().block()
        assert len(more) == 5000 and all((more[n] == n).all() for n in range(5000))
    """
    passes(run_program, tmp_path, source)


def test_a_change_right_after_send_does_not_arrive(run_program: RunProgram, tmp_path: Path) -> None:
    """Whatever the size, and however full the way: what was sent is what the value was."""
    source = """
        import numpy as np
        def child(pace):
            s, go = Sender(parent()), Receiver(parent())
            for size in (10, 1000, 65_536, 65_537, 300_000, 5_000_000):
                one = bytearray(b"a" * size)
                two = np.zeros(size, dtype=np.uint8)
                three = [bytearray(b"c" * size), {"n": size}]
                for value in (one, two, three):
                    s.send(value).block()
                    one[:] = b"X" * size; two[:] = 9; three[0][:] = b"Y" * size; three[1]["n"] = 0
                    one[:] = b"a" * size; two[:] = 0; three[0][:] = b"c" * size; three[1]["n"] = size
                one[:] = b"X" * size
                s.send(memoryview(one)).block()
                one[:] = b"Z" * size
        init()
        r = Receiver(spawn(child, 0).block())
        for size in (10, 1000, 65_536, 65_537, 300_000, 5_000_000):
            assert r.recv().block() == b"a" * size
            assert not r.recv().block().any()
            assert r.recv().block() == [b"c" * size, {"n": size}]
            assert r.recv().block() == b"X" * size
    """
    passes(run_program, tmp_path, source)


def test_ints_of_many_digits_in_a_quick_row(run_program: RunProgram, tmp_path: Path) -> None:
    """They are combined like small ones, weigh a thousand times as much, and all arrive in order."""
    source = """
        COUNT = 20_000
        def child():
            s = Sender(parent())
            for n in range(COUNT):
                s.send((1 << 20_000) + n if n % 100 > 3 else n).block()
            s.send("end").block()
        init()
        pid = spawn(child).block()
        r = Receiver(pid)
        until(lambda: len(r._channel.queue) > 2)
        for n in range(COUNT):
            assert r.recv().block() == ((1 << 20_000) + n if n % 100 > 3 else n), n
        assert r.recv().block() == "end"
    """
    passes(run_program, tmp_path, source)


def test_a_value_that_cannot_be_encoded_is_refused_with_its_path(run_program: RunProgram, tmp_path: Path) -> None:
    """The member is named; nothing of the value has been sent; the channel goes on."""
    source = """
        class Thing:
            def __init__(self): self.args = (1, {"lock": threading.Lock()})
        def child():
            assert list(Receiver(parent())) == [1, 2, 3, 4]
        init()
        pid = spawn(child).block()
        s = Sender(pid)
        s.send(1).block()
        error = raises(SerializationError, lambda: s.send(Thing()).block())
        assert "args[1]['lock']" in str(error), error
        s.send(2).block()
        raises(SerializationError, s.try_send, [Thing()])
        s.send(3).block()
        raises(SerializationError, lambda: select(s.send(Thing())).block())
        s.send(4).block()
        s.close()
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_a_refusal_in_a_stream_belongs_to_the_send_of_that_value(run_program: RunProgram, tmp_path: Path) -> None:
    """msgpack takes no lone surrogates: such a value is refused in its own send, however quick the stream around it is."""
    source = """
        def child():
            s, refused = Sender(parent()), []
            for n in range(60_000):
                try:
                    s.send("\\ud800" if n % 5000 == 4000 else n).block()
                except SerializationError:
                    refused.append(n)
            assert refused == list(range(4000, 60_000, 5000)), refused
        init(serializer="msgpack")
        pid = spawn(child).block()
        assert list(Receiver(pid)) == [n for n in range(60_000) if n % 5000 != 4000]
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_a_value_that_cannot_be_decoded_is_passed_over(run_program: RunProgram, tmp_path: Path) -> None:
    """The receiver gets the error once, and then the next value; small, large, and by iteration."""
    source = """
        class Bad:
            def __init__(self, more): self.more = more
            def __reduce__(self): return (fail, (self.more,))
        def fail(more): raise ValueError("no such thing")
        def child():
            s = Sender(parent())
            for value in (1, Bad(b""), 2, Bad(bytes(200_000)), 3, Bad(b""), 4):
                s.send(value).block()
        init()
        r = Receiver(spawn(child).block())
        got = []
        for _ in range(7):
            try:
                got.append(next(r))
            except SerializationError as error:
                assert "no such thing" in str(error)
                got.append("error")
        assert got == [1, "error", 2, "error", 3, "error", 4]
        assert list(r) == []
    """
    passes(run_program, tmp_path, source)


@pytest.mark.slow
def test_64_mib_of_every_kind(run_program: RunProgram, tmp_path: Path) -> None:
    """Far above the credit, with a receiver that is there and one that comes late."""
    source = """
        import numpy as np
        size = 64 << 20
        def child():
            s = Sender(parent())
            data = os.urandom(1 << 20) * 64
            for value in (data, bytearray(data), memoryview(data), np.frombuffer(data, dtype=np.int64), {"data": data}):
                s.send(value).block()
        init()
        r = Receiver(spawn(child).block())
        first = r.recv().block()
        assert type(first) is bytes and len(first) == size
        for kind in (bytearray, memoryview):
            value = r.recv().block()
            assert type(value) is kind and value == first
        assert r.recv().block().tobytes() == first
        assert r.recv().block() == {"data": first}
    """
    passes(run_program, tmp_path, source)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes", "array"])
def test_3_gib_pass_with_one_copy_in_each_process(run_program: RunProgram, tmp_path: Path, kind: str) -> None:
    """Measured by the peak of each process: the value and less than a tenth of it beside."""
    source = f"""
        import numpy as np
        size = 3 << 30
        def child():
            value = bytes(size) if {kind!r} == "bytes" else np.ones(size, dtype=np.uint8)
            Sender(parent()).send(value).block()
            check("sender")
        def check(who):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
            assert peak < 1.1 * size, (who, peak)
        init(Resources(mem="4 GiB"))
        pid = spawn(child).block()
        value = Receiver(pid).recv().block()
        assert len(value) == size
        assert (value[0], value[-1], value[size // 2]) == ((0, 0, 0) if {kind!r} == "bytes" else (1, 1, 1))
        check("receiver")
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source, timeout=110.0)
