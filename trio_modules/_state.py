"""The lifecycle of a module as a table: what to do, from what is wished and what is the case.

Rules of this file:

* A decision looks at one module alone: its wish, its status and two facts about its neighbours.
  Whoever changes one of these asks again for that module, and for no other.
* The table says what *may happen now*; "nothing" means that somebody else has to move first.
* A wish that can't be fulfilled at present (a backoff runs, the budget is spent) counts as
  "don't want", so the table needs no column for it.

The order of a whole service, up and down, follows from these few lines for every cause of
starting and stopping: nobody keeps a list of orders.
"""

from __future__ import annotations

import enum

from trio_modules._status import ModuleStatus

__all__ = ["TABLE", "Action", "decide"]


class Action(enum.Enum):
    """What the root supervisor does with a module now."""

    NOTHING = "nothing"
    START = "start"
    STOP = "stop"


#: (status, wanted) -> (the action, what it has to wait for)
TABLE: dict[tuple[ModuleStatus, bool], tuple[Action, str]] = {
    (ModuleStatus.DEAD, False): (Action.NOTHING, ""),
    (ModuleStatus.DEAD, True): (Action.NOTHING, ""),
    (ModuleStatus.PREPARING, False): (Action.NOTHING, ""),
    (ModuleStatus.PREPARING, True): (Action.NOTHING, ""),
    (ModuleStatus.OFFLINE, False): (Action.NOTHING, ""),
    (ModuleStatus.OFFLINE, True): (Action.START, "dependencies online"),
    # Nothing is up on top of it, and what it may have to wait for is only a soft dependent.
    (ModuleStatus.STARTING, False): (Action.STOP, ""),
    (ModuleStatus.STARTING, True): (Action.NOTHING, ""),
    (ModuleStatus.ONLINE, False): (Action.STOP, "dependents offline"),
    (ModuleStatus.ONLINE, True): (Action.NOTHING, ""),
    # Left ONLINE by a crash, its own or that of a dependency: the stop proper comes in turn.
    (ModuleStatus.STOPPING, False): (Action.STOP, "dependents offline"),
    (ModuleStatus.STOPPING, True): (Action.STOP, "dependents offline"),
}


def decide(status: ModuleStatus, wanted: bool, missing: int, dependents: int) -> Action:
    """What to do with a module now.

    Args:
        status: what is the case.
        wanted: whether it should run.
        missing: how many dependencies it would have to wait for before it may start.
        dependents: how many dependents it would have to wait for before it may stop.
    """
    action, condition = TABLE[status, wanted]
    if condition == "dependencies online" and missing:
        return Action.NOTHING
    if condition == "dependents offline" and dependents:
        return Action.NOTHING
    return action
