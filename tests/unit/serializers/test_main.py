"""What a program's own `__main__` defines, before its init() and after, as another copy of an earlier state gets it.

Each program is run for real: it forks where init() would be, the copy waits for a call, the original defines more and
sends one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """\
import os, sys, threading
from dataclasses import dataclass
from constellation.serializers.pickle import PickleSerializer, decode_call, encode_call, remember_main

{before}

def _fork(names):
    read_end, write_end = os.pipe()
    if os.fork():
        os.close(read_end)
        remember_main(names)
        return write_end
    os.close(write_end)
    remember_main(names)
    with open(read_end, "rb") as pipe:
        data = pipe.read()
    if not data:
        os._exit(0)
    try:
        fn, args, kwargs = decode_call(data)
        print(repr(fn(*args, **kwargs)), flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)

def send(fn, *args, **kwargs):
    with open(_end, "wb") as pipe:
        try:
            pipe.write(encode_call(fn, args, kwargs))
        except Exception as error:
            print(type(error).__name__, error, flush=True)
            os._exit(0)
    os.wait()

_end = _fork({names})
{after}
"""


def run(tmp_path: Path, before: str, after: str, *, names: str = "frozenset(globals()) | {'_end'}") -> str:
    """Run a program; give what the copy printed."""
    path = tmp_path / "prog.py"
    path.write_text(PROGRAM.format(before=textwrap.dedent(before), after=textwrap.dedent(after), names=names))
    command = [sys.executable, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout.strip()


def test_function_goes_by_name(tmp_path: Path) -> None:
    """A function from before init() is the copy's own, and so are its globals."""
    before = """
        lock = threading.Lock()
        def work(number):
            return number, lock.locked(), work is globals()["work"]
        """
    assert run(tmp_path, before, "lock.acquire(); send(work, 1)") == "(1, False, True)"


def test_nested_function_uses_the_copys_globals(tmp_path: Path) -> None:
    """A closure is bound to the real `__main__`, not to a copy of it."""
    before = """
        seen = []
        def make(number):
            def inner():
                seen.append(number)
                return seen, inner.__globals__ is globals()
            return inner
        """
    assert run(tmp_path, before, "seen.append(1); send(make(5))") == "([5], True)"


def test_instances_go_by_name_of_their_class(tmp_path: Path) -> None:
    """An object's class is the copy's own."""
    before = """
        @dataclass
        class Point:
            x: int
            class Inner:
                pass
        def check(point, inner):
            return type(point) is Point, point.x, type(inner) is Point.Inner
        """
    assert run(tmp_path, before, "send(check, Point(3), Point.Inner())") == "(True, 3, True)"


def test_function_defined_after_init(tmp_path: Path) -> None:
    """A later function that uses only what the copy has is bound to the copy's globals."""
    before = "count = [1]"
    after = """
        count.append(2)
        def late(number):
            return number, count, late.__globals__ is sys.modules["__main__"].__dict__ if number else None
        send(lambda: (count, sys.modules["__main__"].count is count))
        """
    assert run(tmp_path, before, after) == "([1], True)"


def test_function_that_uses_what_came_after_init(tmp_path: Path) -> None:
    """Later globals travel with the function, what was there before is the copy's own."""
    before = """
        lock = threading.Lock()
        held = lock
        """
    after = """
        LIMIT = 7
        def helper(number):
            return number + LIMIT
        def late(number):
            return helper(number), lock is sys.modules["__main__"].held, late.__name__
        send(late, 1)
        """
    assert run(tmp_path, before, after) == "(8, True, 'late')"


def test_known_function_that_uses_what_came_after_init(tmp_path: Path) -> None:
    """A function from before init() that leads to a later global takes it along."""
    before = """
        def outer():
            return inner()
        def inner():
            return LATER + outer.__defaults__[0] if outer.__defaults__ else LATER
        """
    assert run(tmp_path, before, "LATER = 9; send(outer)") == "9"


def test_global_that_a_function_sets_itself_does_not_travel(tmp_path: Path) -> None:
    """What a function writes before it reads it is not needed, so it may be anything here."""
    before = """
        def work():
            global connection
            connection = 5
            return connection, "connection" in vars(sys.modules["__main__"])
        """
    assert run(tmp_path, before, "connection = threading.Lock(); send(work)") == "(5, True)"


def test_attribute_named_like_a_later_global_does_not_matter(tmp_path: Path) -> None:
    """Only globals count, not attributes of the same name."""
    before = """
        class Thing:
            size = 3
        def work():
            return Thing().size, work is sys.modules["__main__"].work
        """
    assert run(tmp_path, before, "size = threading.Lock(); send(work)") == "(3, True)"


def test_later_global_that_cannot_travel_is_named(tmp_path: Path) -> None:
    """The refusal says which global it is."""
    after = """
        lock = threading.Lock()
        def late():
            return lock
        send(late)
        """
    assert run(tmp_path, "", after) == "SerializationError fn.<globals>.lock: cannot pickle '_thread.lock' object"


def test_class_defined_after_init(tmp_path: Path) -> None:
    """A later class travels with its methods and the globals that they use."""
    before = """
        def check(thing):
            return thing.value(), type(thing).__name__
        """
    after = """
        FACTOR = 3
        class Late:
            def __init__(self, number):
                self.number = number
            def value(self):
                return self.number * FACTOR
        send(check, Late(5))
        """
    assert run(tmp_path, before, after) == "(15, 'Late')"


def test_definition_that_was_replaced_after_init(tmp_path: Path) -> None:
    """What the program calls now is what runs, not what had the name before."""
    before = """
        def work():
            return "old"
        class Thing:
            text = "old"
        def check(thing):
            return thing.text, work()
        """
    after = """
        def work():
            return "new"
        class Thing:
            text = "new"
        send(check, Thing())
        """
    assert run(tmp_path, before, after) == "('new', 'new')"


def test_names_of_a_program_that_nobody_has(tmp_path: Path) -> None:
    """With no program behind `__main__`, as in a notebook, all of it goes by value."""
    before = """
        FACTOR = 2
        @dataclass
        class Point:
            x: int
        def double(point):
            return point.x * FACTOR, double.__globals__ is not sys.modules["__main__"].__dict__, recursion(5)
        def recursion(number):
            return number and recursion(number - 1)
        """
    after = """
        FACTOR = 3
        send(double, Point(4))
        """
    assert run(tmp_path, before, after, names="frozenset()") == "(12, True, 0)"


def test_closures_by_value_share_their_variables(tmp_path: Path) -> None:
    """Two functions over one variable stay two functions over one variable."""
    after = """
        START = 5
        def pair():
            count = START
            def add():
                nonlocal count
                count += START
            def read():
                return count
            return add, read
        add, read = pair()
        def both(add, read):
            add()
            return read()
        send(both, add, read)
        """
    assert run(tmp_path, "", after, names="frozenset()") == "10"


def test_function_that_came_by_value_can_be_sent_on(tmp_path: Path) -> None:
    """What a process got by value it can give to the next one."""
    before = """
        lock = threading.Lock()
        def again(fn):
            fn, *_ = decode_call(encode_call(fn, (), {}))
            return fn(), fn.__globals__["lock"] is lock
        """
    after = """
        LATER = 1
        def late():
            return LATER, lock.locked()
        send(again, late)
        """
    assert run(tmp_path, before, after) == "((1, False), True)"


def test_tracebacks_of_functions_by_value_show_their_lines(tmp_path: Path) -> None:
    """File and line stay with the code."""
    after = """
        LATER = 1
        def late():
            return os.path.basename(late.__code__.co_filename), late.__code__.co_firstlineno > 30, LATER
        send(late)
        """
    assert run(tmp_path, "", after) == "('prog.py', True, 1)"


def test_decoding_names_what_is_missing(tmp_path: Path) -> None:
    """Names that the sender believed to be everywhere are named when they are not."""
    after = """
        remember_main(None)
        def late():
            pass
        send(late)
        """
    printed = run(tmp_path, "", after)
    assert printed.startswith("SerializationError value: the value names what this process does not have")
    assert "'late'" in printed
    assert printed.endswith("defined after init()?")


def test_values_with_classes_of_main(tmp_path: Path) -> None:
    """Messages follow the same rules as calls."""
    before = """
        @dataclass
        class Known:
            x: int
        def read(data):
            known, late, function = PickleSerializer().decode([data])
            return type(known) is Known, known.x, late.y, function()
        """
    after = """
        class Late:
            y = 4
        send(read, PickleSerializer().encode([Known(3), Late(), lambda: 5])[0])
        """
    assert run(tmp_path, before, after) == "(True, 3, 4, 5)"


def test_module_that_the_others_cannot_import(tmp_path: Path) -> None:
    """Where no program is behind `__main__`, a module that was loaded past `sys.path` goes by value."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "aside.py").write_text(
        textwrap.dedent(
            """
            import json
            LIMIT = 5
            class Thing:
                limit = LIMIT
            def work(thing):
                return LIMIT, type(thing) is Thing, thing.limit, json.dumps([inner()])
            def inner():
                return Thing.limit + 1
            def nested():
                return lambda: (LIMIT, json.loads("[1]"))
            def read(data):
                return PickleSerializer().decode([data]).limit, os.path.join is __import__("posixpath").join
            from constellation.serializers.pickle import PickleSerializer
            import os
            """
        )
    )
    after = """
        import importlib.util
        path = os.path.join(os.path.dirname(__file__), "elsewhere", "aside.py")
        spec = importlib.util.spec_from_file_location("aside", path)
        sys.modules["aside"] = aside = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(aside)
        work, Thing, nested, read = aside.work, aside.Thing, aside.nested(), aside.read
        data = PickleSerializer().encode(Thing())[0]
        send(lambda: (work(Thing()), "aside" in sys.modules, nested(), read(data)))
        """
    assert run(tmp_path, "", after, names="frozenset()") == "((5, True, 5, '[6]'), False, (5, [1]), (5, True))"


@pytest.mark.parametrize("text", ["text with __main__ in it", b"bytes \x93 __main__"])
def test_text_that_mentions_main_is_only_text(tmp_path: Path, text: object) -> None:
    """The name within data changes nothing."""
    assert run(tmp_path, "", f"send(list, [{text!r}])") == f"[{text!r}]"
