"""How functions, and what `__main__` defines, travel between processes of one deployment.

Plain pickle sends functions and classes by name only: it refuses nested functions and lambdas, and it takes names of
`__main__` that the receiver may not have. The picklers here choose, for each function and class that they meet:

* **by name**, where the receiver finds the same thing under that name;
* **bound**: code, defaults and cells, put together again with the globals of the receiver's own module. For nested
  functions and lambdas. Cheap, and the function sees the module's real globals, not copies;
* **by value**, with cloudpickle: the globals that it uses travel too, as copies. For classes that have no name in a
  module, and for what the receiver's `__main__` lacks.

What the receiver's `__main__` has is what the template's has, the program as it stood at its `init()`: `remember_main`
is told the names. A function that uses, itself or through other functions of `__main__`, a global that is not among
them, goes by value; what it uses of those that are goes by name within it, so that one lock stays one lock. A function
or class that was defined anew since counts as lacking.

Both sides run the same version of Python: a code object goes in the form of `marshal`, and the version is checked.
"""

from __future__ import annotations

import functools
import importlib
import io
import marshal
import pickle
import sys
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from types import CellType, CodeType, EllipsisType, FunctionType, MethodType, ModuleType, NoneType, NotImplementedType
from typing import Any, ClassVar

from constellation.core.contracts import Buffer
from constellation.core.errors import SerializationError

PROTOCOL = 5
_VERSION = sys.hexversion >> 16  # marshal's format and the byte code change with it
_STACK_GLOBAL = pickle.STACK_GLOBAL[0]
_MODULE_NAMES = frozenset(
    [
        "__annotations__",
        "__builtins__",
        "__cached__",
        "__doc__",
        "__file__",
        "__loader__",
        "__name__",
        "__package__",
        "__spec__",
    ]
)

APART_BYTES = 16 << 10
"""Buffers from this size travel beside the pickle; for smaller ones a copy costs less than a buffer more on the way."""

# -- What the receiver's __main__ has ----------------------------------------------------------------------------------

_known: AbstractSet[str] | None = None
_defined: dict[str, object] = {}


def remember_main(names: AbstractSet[str] | None) -> None:
    """Say which globals the `__main__` of every other process has.

    Call it when `__main__` is as it was at `init()`: its functions and classes of these names are remembered too, so
    that a later definition under the same name is told from the one that the others have.

    Args:
        names: The names. Empty where no program is behind `__main__` (REPL, notebook): all of it goes by value. None,
            which holds until the first call: `__main__` is the same everywhere.
    """
    global _known, _defined
    space = _main_space()
    _known = None if names is None else frozenset(names)
    kept = ((name, space.get(name)) for name in names or ())
    _defined = {name: value for name, value in kept if isinstance(value, (FunctionType, type))}


def is_right(data: bytes) -> bool:
    """Whether a plain pickle names only what the receiver has, as far as can be told without making it anew."""
    # A pickle without this opcode names nothing. To look for one byte costs 30 ns, for a word 200.
    if _STACK_GLOBAL not in data or _known is None:
        return True
    return bool(_known) and b"__main__" not in data


def _main_space() -> dict[str, Any]:
    return sys.modules["__main__"].__dict__


def _lacks(name: str, space: dict[str, Any]) -> bool:
    """Whether the other processes' `__main__` has no such global, or another definition under its name."""
    if _known is None or name in _MODULE_NAMES:
        return False
    if name not in _known:
        return True
    return name in _defined and space.get(name) is not _defined[name]


def _uses_lacking(function: FunctionType) -> bool:
    """Whether a function of `__main__` uses, itself or through others of `__main__`, a global that the others lack."""
    if _known is None:
        return False
    # First by all names in the code, attributes included: quick, and never misses one. Then exactly.
    return _reaches_lacking(function, _mentioned) and _reaches_lacking(function, loaded_globals)


def _reaches_lacking(function: FunctionType, names_of: Callable[[CodeType], AbstractSet[str]]) -> bool:
    space = function.__globals__
    seen = {function}
    waiting = [function]
    while waiting:
        for name in names_of(waiting.pop().__code__):
            if name not in space:
                continue
            if _lacks(name, space):
                return True
            used = space[name]
            if type(used) is FunctionType and used.__globals__ is space and used not in seen:
                seen.add(used)
                waiting.append(used)
    return False


@functools.lru_cache(maxsize=1024)
def _mentioned(code: CodeType) -> frozenset[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if type(constant) is CodeType:
            names |= _mentioned(constant)
    return frozenset(names)


@functools.lru_cache(maxsize=1024)
def loaded_globals(code: CodeType) -> frozenset[str]:
    """The globals that a code object reads before it writes them, those of the functions and classes in it included."""
    import dis  # costs 3 ms, and most programs never come here

    names: set[str] = set()
    stored: set[str] = set()
    for instruction in dis.get_instructions(code):
        action, _, where = instruction.opname.partition("_")
        if not where.endswith(("GLOBAL", "NAME", "GLOBALS")):
            continue
        if action == "STORE":
            stored.add(instruction.argval)
        elif action in {"LOAD", "DELETE"} and instruction.argval not in stored:
            names.add(instruction.argval)
    for constant in code.co_consts:
        if type(constant) is CodeType:
            names |= loaded_globals(constant)
    return frozenset(names)


# -- The choice --------------------------------------------------------------------------------------------------------


def _found_as(module_name: str | None, qualname: str) -> object:
    """What a loaded module has under a qualified name; None when it has nothing."""
    found: Any = sys.modules.get(module_name or "")
    for part in qualname.split("."):
        found = getattr(found, part, None)  # "<locals>" and "<lambda>" are attributes of nothing
    return found


def goes_by_name(definition: FunctionType | type) -> bool:
    """Whether the receiver finds the same function or class under its name."""
    if definition is NoneType or definition is EllipsisType or definition is NotImplementedType:
        return True  # pickle has a way of its own for these; no module has them by name
    module_name, qualname = definition.__module__, definition.__qualname__
    if _found_as(module_name, qualname) is not definition:
        return False
    if module_name != "__main__":
        return _others_have_module(module_name)
    if _known is None:
        return True
    space = _main_space()
    if _lacks(qualname.partition(".")[0], space):
        return False
    return not (isinstance(definition, FunctionType) and definition.__globals__ is space and _uses_lacking(definition))


def goes_bound(function: FunctionType) -> bool:
    """Whether a function's globals are those of a module that the receiver has, with all that it needs of them."""
    space = function.__globals__
    if space is _main_space():
        return _known is None or (bool(_known) and not _uses_lacking(function))
    module = sys.modules.get(space.get("__name__", ""))
    return module is not None and module.__dict__ is space and _others_have_module(module.__name__)


def _others_have_module(name: str) -> bool:
    """Whether the other processes can import a module that is loaded here.

    They can where they are copies of this program. Where no program is behind `__main__` they are bare interpreters with
    our `sys.path`, and a module that was loaded past it is not theirs: pytest does so with ``--import-mode=importlib``.
    """
    return _known is None or bool(_known) or _is_on_path(name)


@functools.lru_cache(maxsize=1024)
def _is_on_path(name: str) -> bool:
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or not file or not file.endswith(".py"):
        return True  # built in, an extension, or made by one: no finder knows them all, and none of them is a user's
    parent = name.rpartition(".")[0]
    if parent and not _is_on_path(parent):
        return False
    path = getattr(sys.modules.get(parent), "__path__", None)
    specs = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    spec = next((spec for spec in specs if spec is not None), None)
    return spec is not None and spec.origin in {file, "frozen"}


# -- In parts ----------------------------------------------------------------------------------------------------------


def _reduce_bound(function: FunctionType) -> tuple[Any, ...]:
    """Take a function apart. What it may refer to itself through (cells, attributes, defaults) is filled in afterwards."""
    code, space = function.__code__, function.__globals__
    documentation = code.co_consts[0] if code.co_consts and type(code.co_consts[0]) is str else None
    usual: dict[str, Any] = {
        "__name__": code.co_name,
        "__qualname__": code.co_qualname,
        "__module__": space.get("__name__"),
        "__doc__": documentation,
        "__defaults__": None,
        "__kwdefaults__": None,
        "__annotations__": {},
        "__type_params__": (),
    }
    unusual = {name: value for name, default in usual.items() if (value := getattr(function, name, default)) != default}
    state = (function.__dict__ or None, unusual or None) if function.__dict__ or unusual else None
    module_name = "__main__" if space is _main_space() else space["__name__"]
    return make_function, (_VERSION, module_name, marshal.dumps(code), function.__closure__), state


def make_function(version: int, module_name: str, code: bytes, closure: tuple[CellType, ...] | None) -> FunctionType:
    """Put a function together again, with the globals of this process's own module.

    Raises:
        SerializationError: The sender runs another version of Python.
    """
    module = sys.modules.get(module_name) or importlib.import_module(module_name)
    return FunctionType(make_code(version, code), module.__dict__, None, None, closure)


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    return make_code, (_VERSION, marshal.dumps(code))


def make_code(version: int, code: bytes) -> CodeType:
    """Read a code object.

    Raises:
        SerializationError: The sender runs another version of Python.
    """
    if version != _VERSION:
        theirs, ours = (f"{number >> 8}.{number & 255}" for number in (version, _VERSION))
        raise SerializationError(
            "value", f"cannot read a function of Python {theirs} with Python {ours}: run the same version everywhere"
        )
    made: CodeType = marshal.loads(code)  # noqa: S302  # it came within a pickle, see PickleSerializer
    return made


def _reduce_cell(cell: CellType) -> tuple[Any, ...]:
    # The content is filled in when the cell is known to the pickler: a function that calls itself is in its own cell.
    try:
        return make_cell, (), (cell.cell_contents,), None, None, fill_cell
    except ValueError:
        return make_cell, ()


def make_cell() -> CellType:
    """Make an empty cell."""
    return CellType()


def fill_cell(cell: CellType, content: tuple[Any]) -> None:
    """Give a cell its content."""
    (cell.cell_contents,) = content


def _reduce_method(method: MethodType) -> Any:
    # Python's own way is getattr by the function's name: wrong for a private name, which is stored mangled, for a
    # method that a subclass hides, and for a function that was bound by hand.
    owner, function = method.__self__, method.__func__
    if getattr(owner, getattr(function, "__name__", ""), None) == method:
        return NotImplemented
    return make_method, (function, owner)


def make_method(function: Callable[..., Any], owner: object) -> MethodType:
    """Bind a function to an object."""
    return MethodType(function, owner)


def _reduce_module(module: ModuleType) -> Any:
    if sys.modules.get(module.__name__) is module:
        return importlib.import_module, (module.__name__,)
    return NotImplemented


class MainGlobal:
    """Stands for a global that every `__main__` has, within a function that goes by value.

    Args:
        name: Name of the global.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return main_global, (self.name,)


def main_global(name: str) -> Any:
    """Read a global of this process's `__main__`."""
    return getattr(sys.modules["__main__"], name)


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    CellType: _reduce_cell,
    CodeType: _reduce_code,
    MethodType: _reduce_method,
    ModuleType: _reduce_module,
}


# -- The picklers ------------------------------------------------------------------------------------------------------


class _NeedsValue(Exception):
    """Something must go by value, so cloudpickle is needed."""


class _BoundPickler(pickle.Pickler):
    """By name and bound; raises _NeedsValue where neither is possible."""

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is FunctionType:
            if goes_by_name(obj):
                return NotImplemented
            if goes_bound(obj):
                return _reduce_bound(obj)
            raise _NeedsValue
        reduce = _REDUCERS.get(kind)
        if reduce is not None:
            return reduce(obj)
        if isinstance(obj, type) and not goes_by_name(obj):
            raise _NeedsValue
        return NotImplemented


@functools.cache
def _value_pickler() -> type[pickle.Pickler]:
    """The pickler that can send by value; made when it is first needed, because cloudpickle takes 15 ms to import."""
    from collections import ChainMap

    import cloudpickle

    def refuse(obj: object) -> Any:
        # cloudpickle would send a copy of the file's text, and bytes for a memoryview: not what was given.
        if obj is sys.stdout:
            return getattr, (sys, "stdout")
        if obj is sys.stderr:
            return getattr, (sys, "stderr")
        kind = type(obj)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        raise TypeError(f"cannot pickle {name!r} object")

    def allow_value(definition: FunctionType | type) -> None:
        module_name = definition.__module__
        if module_name in sys.modules and not _others_have_module(module_name):
            cloudpickle.register_pickle_by_value(sys.modules[module_name])

    class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        dispatch_table: ClassVar = ChainMap(
            {io.TextIOWrapper: refuse, memoryview: refuse}, cloudpickle.Pickler.dispatch_table
        )

        def reducer_override(self, obj: Any) -> Any:
            kind = type(obj)
            if kind is FunctionType:
                if goes_by_name(obj):
                    return NotImplemented
                if goes_bound(obj):
                    return _reduce_bound(obj)
                allow_value(obj)
                return _by_value(obj, super().reducer_override(obj))
            reduce = _REDUCERS.get(kind)
            if reduce is not None:
                return reduce(obj)
            if isinstance(obj, type):
                if goes_by_name(obj):
                    return NotImplemented
                allow_value(obj)
            return super().reducer_override(obj)

    return ValuePickler


def _by_value(function: FunctionType, reduced: Any) -> Any:
    """Mend what cloudpickle makes of a function: its own cells, so that functions share them, and globals by name."""
    make, (code, base, name, defaults, _), (attributes, slots), *rest = reduced
    slots = {**slots, "__globals__": globals_by_value(function), "__closure__": None}
    return make, (code, base, name, defaults, function.__closure__), (attributes, slots), *rest


def globals_by_value(function: FunctionType) -> dict[str, Any]:
    """The globals that a function takes along; none unless it goes by value."""
    if goes_by_name(function) or goes_bound(function):
        return {}
    space = function.__globals__
    used = {name: space[name] for name in sorted(loaded_globals(function.__code__)) if name in space}
    if space.get("__name__") == "__main__" and _known:
        used = {name: MainGlobal(name) if _is_everywhere(name, value) else value for name, value in used.items()}
    return used


def _is_everywhere(name: str, value: object) -> bool:
    """Whether a global that a function by value uses is one that every `__main__` has, so that it need not go along.

    The function may have come by value itself, with globals of its own that are partly those of `__main__`.
    """
    space = _main_space()
    if name not in space or space[name] is not value or _lacks(name, space):
        return False
    return not (type(value) is FunctionType and value.__globals__ is space and _uses_lacking(value))


def dump(value: Any, *, apart: bool) -> list[Buffer]:
    """Pickle a value, its functions and classes as this module says.

    Args:
        value: The value.
        apart: Whether large buffers may travel beside the pickle, borrowed from the value.

    Returns:
        The pickle, then the buffers.

    Raises:
        Exception: Whatever pickle, or a method of a member, raises.
    """
    try:
        return _dump(_BoundPickler, value, apart)
    except (RecursionError, MemoryError):
        raise
    except Exception:  # not only _NeedsValue: cloudpickle knows more types, and its error says as much
        pass
    return _dump(_value_pickler(), value, apart)


def _dump(pickler: type[pickle.Pickler], value: Any, apart: bool) -> list[Buffer]:
    buffers: list[Buffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < APART_BYTES:
            return True
        buffers.append(raw)
        return False

    file = io.BytesIO()
    pickler(file, PROTOCOL, buffer_callback=keep if apart else None).dump(value)
    return [file.getvalue(), *buffers]
