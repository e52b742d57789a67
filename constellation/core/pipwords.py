"""The essence of what pip prints when it fails, for somebody who sees a deployment refused and not pip's pages.

Pip has no output for machines about failures; these are its words of the versions 22 to 26. What is not known here ends in pip's
last line that begins with ERROR, or in its last line at all.
"""

from __future__ import annotations

import re

_ABSENT = re.compile(r"No matching distribution found for (.+)")
_VERSIONS = re.compile(r"Could not find a version that satisfies the requirement .* \(from versions: ([^)]*)\)")
_OTHER_PYTHON = re.compile(r"Ignored the following (?:yanked )?versions that require a different python version: (.*)")
_UNREACHABLE = re.compile(
    r"Failed to establish a new connection: (?:\[Errno -?\d+\] )?([^')]+)"
    r"|((?:Read|Connect) ?timed out|ConnectTimeoutError|ReadTimeoutError)"
    r"|(Temporary failure in name resolution|Name or service not known|SSLCertVerificationError|CERTIFICATE_VERIFY_FAILED)"
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded|\[Errno 27\]")
_BUILD = re.compile(
    r"(?:Failed building wheel for|Failed to build installable wheels for some pyproject.toml based projects \(?|"
    r"Could not build wheels for|Failed to build '?)\s*'?([A-Za-z0-9._-]+)"
)
_CONFLICT = re.compile(r"Cannot install (.*) because these package versions have conflicting dependencies")
_HASHES = re.compile(r"THESE PACKAGES DO NOT MATCH THE HASHES|Hashes are required in --require-hashes mode")
_PYTHON = re.compile(r"Package '?([^']+)'? requires a different Python: (\S+) not in '([^']+)'")
_LAST = re.compile(r"^ERROR: (.*)", re.MULTILINE)
_SHOWN_VERSIONS = 8


def essence(output: str) -> str:
    """Say in one or a few lines why pip failed.

    Args:
        output: All that it printed.
    """
    if _FULL.search(output):
        return "the disk is full: make room where the environments are kept"
    absent = _ABSENT.search(output)
    unreachable = _UNREACHABLE.search(output)
    if unreachable is not None:
        reason = next(filter(None, unreachable.groups())).strip()
        wanted = f", so {absent[1].strip()} cannot be had" if absent else ""
        return f"the package index cannot be reached from the node ({reason}){wanted}"
    if absent is not None:
        return _why_absent(absent[1].strip(), output)
    conflict = _CONFLICT.search(output)
    if conflict is not None:
        causes = re.findall(r"^ {4}(\S.*)$", output.partition("The conflict is caused by:")[2], re.MULTILINE)
        return f"{conflict[1]} do not go together" + "".join(f"\n  {cause}" for cause in causes[:_SHOWN_VERSIONS])
    python = _PYTHON.search(output)
    if python is not None:
        return f"{python[1]} needs Python {python[3]}, the node has {python[2]}"
    if _HASHES.search(output):
        return "a package does not have the hash that is stated for it, or has none stated"
    build = _BUILD.search(output)
    if build is not None:
        return f"{build[1]} has no wheel for this node's Python, and building it failed: {_build_error(output)}"
    last = _LAST.findall(output)
    if last:
        return str(last[-1]).strip()
    lines = output.strip().splitlines()
    return lines[-1].strip() if lines else "pip failed without a word"


def _why_absent(wanted: str, output: str) -> str:
    other = _OTHER_PYTHON.search(output)
    versions = _VERSIONS.search(output)
    known = [] if versions is None or versions[1].strip() == "none" else versions[1].split(", ")
    if known:
        shown = ", ".join(known[-_SHOWN_VERSIONS:])
        return f"there is no {wanted} for this node's Python; there are {'..., ' if len(known) > _SHOWN_VERSIONS else ''}{shown}"
    if other is not None:
        return f"there is no {wanted} for this node's Python; for others there is {other[1].strip()}"
    return f"there is no package {wanted}"


def _build_error(output: str) -> str:
    """The line in which a build says what is wrong."""
    lines = [line.strip() for line in output.splitlines()]
    errors = [line for line in lines if re.match(r"(?i)\w*(error|exception): ", line) and not line.startswith("ERROR:")]
    return errors[-1] if errors else "see the log of the node"
