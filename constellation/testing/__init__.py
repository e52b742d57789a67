"""What the author of a plugin or a program imports in tests: a conformance suite for each kind of plugin, and a leak check."""

from typing import TYPE_CHECKING, Any

from constellation.testing.launchers import LAUNCHER_CHECKS as LAUNCHER_CHECKS
from constellation.testing.launchers import check_launcher as check_launcher
from constellation.testing.launchers import launcher_checks as launcher_checks
from constellation.testing.leaks import nothing_left as nothing_left
from constellation.testing.promises import BrokenPromise as BrokenPromise
from constellation.testing.promises import Check as Check
from constellation.testing.schedulers import SCHEDULER_CHECKS as SCHEDULER_CHECKS
from constellation.testing.schedulers import check_scheduler as check_scheduler
from constellation.testing.serializers import SERIALIZER_CHECKS as SERIALIZER_CHECKS
from constellation.testing.serializers import check_serializer as check_serializer
from constellation.testing.transports import TRANSPORT_CHECKS as TRANSPORT_CHECKS
from constellation.testing.transports import check_transport as check_transport

if TYPE_CHECKING:
    from constellation.testing.fixtures import leak_check as leak_check


def __getattr__(name: str) -> Any:
    if name == "leak_check":  # late: the suites work without pytest
        from constellation.testing.fixtures import leak_check

        return leak_check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
