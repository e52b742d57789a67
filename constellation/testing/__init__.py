"""What the author of a plugin imports in tests: a conformance suite for each kind of plugin."""

from constellation.testing.schedulers import SCHEDULER_CHECKS as SCHEDULER_CHECKS
from constellation.testing.schedulers import check_scheduler as check_scheduler
from constellation.testing.serializers import SERIALIZER_CHECKS as SERIALIZER_CHECKS
from constellation.testing.serializers import check_serializer as check_serializer
