"""The essence of what pip prints."""

from __future__ import annotations

import pytest

from constellation.core.pipwords import essence

ABSENT = """\
Looking in links: /tmp/w
ERROR: Could not find a version that satisfies the requirement nosuch>=1 (from versions: none)
ERROR: No matching distribution found for nosuch>=1
"""
OTHER_VERSIONS = """\
ERROR: Could not find a version that satisfies the requirement numpy==99 (from versions: 1.0, 1.1, 2.0)
ERROR: No matching distribution found for numpy==99
"""
OTHER_PYTHON = """\
ERROR: Ignored the following versions that require a different python version: 2.0 Requires-Python >=3.14
ERROR: Could not find a version that satisfies the requirement lib (from versions: none)
ERROR: No matching distribution found for lib
"""
OFFLINE = """\
WARNING: Retrying (Retry(total=1, connect=None)) after connection broken by 'NewConnectionError('<pip._vendor.urllib3.connection\
.HTTPSConnection object at 0x7f>: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')': /simple/x/
ERROR: Could not find a version that satisfies the requirement x (from versions: none)
ERROR: No matching distribution found for x
"""
CONFLICT = """\
INFO: pip is looking at multiple versions of a to determine which version is compatible with other requirements.
ERROR: Cannot install a==1.0 and b==2.0 because these package versions have conflicting dependencies.

The conflict is caused by:
    a 1.0 depends on c<2
    b 2.0 depends on c>=2

To fix this you could try to:
1. loosen the range of package versions you've specified
"""
BUILD = """\
  x Getting requirements to build wheel did not run successfully.
  │ exit code: 1
  ╰─> [3 lines of output]
      RuntimeError: this needs a compiler: none found
      [end of output]
ERROR: Failed to build 'thing' when getting requirements to build wheel
"""


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (ABSENT, "there is no package nosuch>=1"),
        (OTHER_VERSIONS, "there is no numpy==99 for this node's Python; there are 1.0, 1.1, 2.0"),
        (OTHER_PYTHON, "there is no lib for this node's Python; for others there is 2.0 Requires-Python >=3.14"),
        (
            OFFLINE,
            "the package index cannot be reached from the node (Temporary failure in name resolution), so x cannot be had",
        ),
        (CONFLICT, "a==1.0 and b==2.0 do not go together\n  a 1.0 depends on c<2\n  b 2.0 depends on c>=2"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", "the disk is full"),
        ("ERROR: Package 'x' requires a different Python: 3.11.7 not in '>=3.13'\n", "x needs Python >=3.13, the node has 3.11.7"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n", "a package does not have the hash"),
        (BUILD, "thing has no wheel for this node's Python, and building it failed: RuntimeError: this needs a compiler"),
        ("x\nERROR: one\nERROR: Something new\n", "Something new"),
        ("only this\n", "only this"),
        ("", "pip failed without a word"),
    ],
)  # fmt: skip
def test_the_reason_is_said_in_words(output: str, words: str) -> None:
    """What somebody can act on, without pip's pages."""
    assert essence(output).startswith(words)


def test_of_many_versions_the_newest_are_shown() -> None:
    """A long list helps nobody."""
    versions = ", ".join(f"1.{number}" for number in range(50))
    said = essence(OTHER_VERSIONS.replace("1.0, 1.1, 2.0", versions))
    assert said.endswith("there are ..., 1.42, 1.43, 1.44, 1.45, 1.46, 1.47, 1.48, 1.49")
