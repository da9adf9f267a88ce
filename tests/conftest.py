"""What holds for every test: properties are tried without a clock, and a failure can be repeated."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A machine that is busy is no reason to fail: how long an example took says nothing about what it found.
settings.register_profile("modelmesh", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("modelmesh")
