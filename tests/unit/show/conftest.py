"""The plan that pictures are drawn of."""

from __future__ import annotations

import pytest
from support.forecasts import MIB, forecast_of

from flexinfer.planning.plan import Plan


@pytest.fixture
def plan() -> Plan:
    return forecast_of(48 * MIB).plan()
