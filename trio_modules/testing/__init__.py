"""Testing services made of modules: faults on cue, fakes, and whole weeks of outages in a second.

`inject` makes named functions of modules fail, hang, be slow or deaf, or crash their module;
`fake` puts a fake in a module's place; `simulate` runs a service under a virtual clock with seeded
scheduling and seeded faults, and checks that it keeps the promises of the framework and its own.
"""

from __future__ import annotations

from trio_modules._util import name_exceptions as _name_exceptions
from trio_modules.testing._collecting import MissingReports, Reports, UnexpectedReports
from trio_modules.testing._fakes import FakeModule, fake
from trio_modules.testing._faults import (
    Fault,
    UnknownTarget,
    crash,
    deaf,
    fail,
    hang,
    slow,
    targets_of,
)
from trio_modules.testing._injecting import FaultNotMet, InjectedFault, Injector, Strike, inject
from trio_modules.testing._plan import FaultPlan
from trio_modules.testing._running_app import (
    CutShort,
    NoEnd,
    SomethingLeft,
    assert_nothing_left,
    running,
)
from trio_modules.testing._simulate import (
    NotDeterministic,
    SimulationFailed,
    SimulationResult,
    simulate,
)
from trio_modules.testing._simulating import RealIO, SimulationError
from trio_modules.testing._telling import NotInTime
from trio_modules.testing._trace import TraceEntry, Violation
from trio_modules.testing._waiting import Caught, expect_event, next_event, wait_for_status

__all__ = [
    "Caught",
    "CutShort",
    "FakeModule",
    "Fault",
    "FaultNotMet",
    "FaultPlan",
    "InjectedFault",
    "Injector",
    "MissingReports",
    "NoEnd",
    "NotDeterministic",
    "NotInTime",
    "RealIO",
    "Reports",
    "SimulationError",
    "SimulationFailed",
    "SimulationResult",
    "SomethingLeft",
    "Strike",
    "TraceEntry",
    "UnexpectedReports",
    "UnknownTarget",
    "Violation",
    "assert_nothing_left",
    "crash",
    "deaf",
    "expect_event",
    "fail",
    "fake",
    "hang",
    "inject",
    "next_event",
    "running",
    "simulate",
    "slow",
    "targets_of",
    "wait_for_status",
]

_name_exceptions(globals())
