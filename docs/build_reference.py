"""Build docs/reference.md and docs/hooks.md out of the docstrings of the public names, and check that they are up to date.

Works on the source text alone: it imports nothing, so it gives the same page under every version of Python. A public
name is one in the ``__all__`` of a public module; its definition is found by following the imports.

    python docs/build_reference.py           write both pages
    python docs/build_reference.py --check   exit 1 if a page differs
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
HOOKS_PAGE = ROOT / "docs" / "hooks.md"
PUBLIC = ("constellation", "constellation.plugin", "constellation.testing")
HOOKS = "constellation.core.hooks"
# Public among our own modules, of no use to others.
NOT_SHOWN = {"to_fields", "from_fields", "at_exit", "on_exception"}
NOT_CALLED = {"Deployment", "Operation"}
SECTIONS = (
    "The operation raises",
    "Args",
    "Returns",
    "Raises",
    "Yields",
    "Attributes",
    "Blocks",
    "Cancel",
    "Cost",
    "Thread",
    "Source",
)

HEADING = re.compile(r"^# -- (.*?) -+$", re.MULTILINE)

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Found(NamedTuple):
    """Where a public name is defined."""

    name: str
    module: str
    node: ast.stmt
    doc: str


def source_of(module: str) -> Path:
    """The file of a module."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def parse(module: str) -> ast.Module:
    """The tree of a module."""
    return ast.parse(source_of(module).read_text(encoding="utf-8"))


def flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, those under ``if`` (TYPE_CHECKING) too."""
    for node in body:
        if isinstance(node, ast.If):
            yield from flat(node.body)
        else:
            yield node


def public_names(module: str) -> list[str]:
    """What ``__all__`` of a module lists; without a list to be read, what the module imports as ``A as A``."""
    body = list(flat(parse(module).body))
    for node in body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            value = node.value  # type: ignore[attr-defined]  # both kinds have one
            if isinstance(value, (ast.List, ast.Tuple)):
                return [str(name) for name in ast.literal_eval(value) if not str(name).startswith("__")]
    aliases = [alias for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]
    return sorted(alias.name for alias in aliases if alias.asname == alias.name)


def find(module: str, name: str) -> Found:
    """Follow the imports from a module to the definition of a name."""
    body = list(flat(parse(module).body))
    for index, node in enumerate(body):
        if isinstance(node, Definition) and node.name == name and not is_marked(node, "overload"):
            return Found(name, module, node, ast.get_docstring(node) or "")
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("constellation"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return find(node.module, alias.name)
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return Found(name, module, node, string_after(body, index))
    raise SystemExit(
        f"cannot find {name!r}, which {source_of(module)} makes public: expected a definition or an import"
    )


def string_after(body: list[ast.stmt], index: int) -> str:
    """The docstring of an assignment: the string that stands below it."""
    following = body[index + 1] if index + 1 < len(body) else None
    if (
        isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
        and isinstance(following.value.value, str)
    ):
        return textwrap.dedent(" " * 4 + following.value.value).strip()
    return ""


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool) -> str:
    """``(n: int, *, key: str = 'x') -> str``, without self."""
    arguments = node.args
    if method and not any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in node.decorator_list):
        first = arguments.posonlyargs or arguments.args
        del first[:1]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    return f"({ast.unparse(arguments)}){returns}"


def is_marked(node: ast.stmt, mark: str) -> bool:
    """Whether a function is decorated with a mark."""
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and any(
        ast.unparse(each).rpartition(".")[2] == mark for each in node.decorator_list
    )


def markdown(doc: str) -> str:
    """A Google docstring as Markdown: its sections as headings in bold, their entries as lists, examples as code."""
    doc = re.sub(r"``([^`]+)``", r"`\1`", doc)
    lines: list[str] = []
    inside = False
    for line in doc.splitlines():
        heading = re.match(rf"({'|'.join(SECTIONS)}):\s*(.*)$", line)
        entry = re.match(r" {4}(\*{0,2}[\w`.]+(?:, [\w`.]+)*)(?: \([^)]*\))?: +(.*)$", line)
        if heading:
            inside = not heading[2]
            lines += ["", f"**{heading[1]}:** {heading[2]}".rstrip(), *([""] if inside else [])]
        elif inside and entry:
            names = ", ".join(f"`{name}`" for name in entry[1].replace("`", "").split(", "))
            lines.append(f"* {names}: {entry[2]}")
        elif inside and line.startswith("    "):
            lines.append(f"  {line.strip()}" if lines[-1].startswith(("* ", "  ")) else line.strip())
        else:
            inside = inside and not line.strip()
            lines.append(line)
    text = "\n".join(lines)
    code = re.compile(r"(?:(?<=\n\n)|\A)((?: {4}.*\n?|\n(?= {4}))+)")
    text = code.sub(lambda match: f"```text\n{textwrap.dedent(match[1]).strip()}\n```\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def of_class(node: ast.ClassDef, module: str) -> tuple[str, list[str]]:
    """The signature of a class, and the parts for its public fields and methods."""
    call, fields, parts = "", list[str](), list[str]()
    is_protocol = any(ast.unparse(base).startswith("Protocol") for base in node.bases)
    body = list(flat(node.body))
    for index, member in enumerate(body):
        if isinstance(member, ast.FunctionDef) and member.name == "__init__" and not is_marked(member, "overload"):
            call = signature(member, method=True)
        if (
            isinstance(member, ast.AnnAssign)
            and isinstance(member.target, ast.Name)
            and not member.target.id.startswith("_")
        ):
            default = f" = {ast.unparse(member.value)}" if member.value else ""
            doc = " ".join(markdown(string_after(body, index)).split())
            if doc or is_protocol:
                fields.append(
                    f"* `{member.target.id}: {ast.unparse(member.annotation)}{default}`"
                    + (f"  \n  {doc}" if doc else "")
                )
        if not isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)) or member.name.startswith("_"):
            continue
        if member.name in NOT_SHOWN:
            continue
        doc = ast.get_docstring(member) or ""
        shown = signature(member, method=True)
        if not doc and is_marked(member, "property") and member.returns:
            doc, shown = of_call(module, ast.unparse(member.returns))
        elif is_marked(member, "property") or is_marked(member, "cached_property"):
            shown = f": {ast.unparse(member.returns)}" if member.returns else ""
        if not doc or " Internal" in doc.splitlines()[0] or is_marked(member, "overload"):
            continue
        keyword = "async " if isinstance(member, ast.AsyncFunctionDef) else ""
        parts.append(f"\n#### `{keyword}{node.name}.{member.name}{shown}`\n\n{markdown(doc)}")
    if not call and any(ast.unparse(base) == "NamedTuple" for base in node.bases):
        call = "(" + ", ".join(ast.unparse(field) for field in node.body if isinstance(field, ast.AnnAssign)) + ")"
    return call, (["", *fields] if fields else []) + parts


def of_call(module: str, name: str) -> tuple[str, str]:
    """Docstring and signature of ``__call__`` of a class in a module: what a property of that type can be called with."""
    for node in parse(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            calls = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__call__"]
            return ast.get_docstring(node) or "", signature(calls[0], method=True) if calls else ""
    return "", ""


def section(found: Found, shown: str) -> str:
    """The section of one public name."""
    node, parts = found.node, list[str]()
    text = [f"### {shown}\n"]
    if isinstance(node, ast.ClassDef):
        call, parts = of_class(node, found.module)
        call = "" if found.name in NOT_CALLED else call
        bases = [
            ast.unparse(base) for base in node.bases if not re.match(r"NamedTuple|object|Generic|_", ast.unparse(base))
        ]
        note = f"  # is a {', '.join(bases)}" if bases else ""
        text.append(f"```python\nclass {shown}{call}{note}\n```")
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        keyword = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
        text.append(f"```python\n{keyword}{shown}{signature(node, method=False)}\n```")
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        text.append(f"```python\n{ast.unparse(node)}\n```")
    if not found.doc and not isinstance(node, (ast.Assign, ast.AnnAssign)):
        raise SystemExit(f"{found.module}.{found.name} is public and has no docstring")
    text.append(f"\n{markdown(found.doc)}" if found.doc else "")
    text.extend(parts)
    return "\n".join(text) + "\n"


def build() -> str:
    """The whole page."""
    pages = [
        "# Reference\n",
        "Built from the docstrings by `make docs`; do not edit. Times are in seconds, sizes in bytes.\n",
    ]
    written: dict[tuple[str, str], str] = {}
    for module in PUBLIC:
        doc = ast.get_docstring(parse(module)) or ""
        pages.append(f"## {module}\n\n{markdown(doc)}\n")
        for name in public_names(module):
            found = find(module, name)
            shown = name if module == "constellation" else f"{module}.{name}"
            same = written.setdefault((found.module, found.name), shown)
            if same != shown:
                pages.append(f"### {shown}\n\nThe same as [`{same}`](#{same.lower().replace('.', '')}).\n")
                continue
            pages.append(section(found, shown))
    pages.append("## Hooks\n\nThey have a page of their own: [hooks](hooks.md).\n")
    return joined(pages)


def build_hooks() -> str:
    """The page of the hooks, in the order and under the headings of their module."""
    text = source_of(HOOKS).read_text(encoding="utf-8")
    headings = [(text[: found.start()].count("\n") + 1, found[1]) for found in HEADING.finditer(text)]
    pages = ["# Hooks\n", "Built from `constellation/core/hooks.py` by `make docs`; do not edit.\n"]
    pages.append(f"{markdown(ast.get_docstring(parse(HOOKS)) or '')}\n")
    for node in parse(HOOKS).body:
        if is_marked(node, "hookspec") and isinstance(node, ast.FunctionDef):
            while headings and headings[0][0] < node.lineno:
                pages.append(f"## {headings.pop(0)[1]}\n")
            doc = re.sub(r"^:param (\w+): ", r"* `\1`: ", ast.get_docstring(node) or "", flags=re.MULTILINE)
            doc = re.sub(r"^:returns: ", "\nReturns: ", doc, flags=re.MULTILINE)
            pages.append(
                section(Found(node.name, HOOKS, node, doc), node.name).replace("```python\n", "```python\ndef ")
            )
    return joined(pages)


def joined(pages: list[str]) -> str:
    """The parts of a page as its text."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(pages)).rstrip() + "\n"


def main() -> None:
    """Write or check the pages."""
    for path, page in ((PAGE, build()), (HOOKS_PAGE, build_hooks())):
        if "--check" in sys.argv[1:]:
            if not path.exists() or path.read_text(encoding="utf-8") != page:
                raise SystemExit(f"{path.relative_to(ROOT)} is not up to date: run `make docs`")
        else:
            path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
