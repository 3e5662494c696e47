"""How parts of ChatFlow start, work in the background and stop.

- :mod:`~chatflow.lifecycle.ordered_services`: services that start in order and stop in reverse order, one by one
- :mod:`~chatflow.lifecycle.process`: the service that twistd runs: signals, exit status, failures in one line
- :mod:`~chatflow.lifecycle.manager`, :mod:`~chatflow.lifecycle.supervision`: what systemd is told meanwhile
- :mod:`~chatflow.lifecycle.reload`: what can change without a restart
- :mod:`~chatflow.lifecycle.work`: work under way, periodic work, pauses between attempts, a turn's share of it
- :mod:`~chatflow.lifecycle.sharing`: one call under way for all who need its result
- :mod:`~chatflow.lifecycle.clocks`: which clock is for what; the reactor's made monotonic
- :mod:`~chatflow.lifecycle.threads`: threads of one's own
"""

from chatflow.lifecycle.manager import ServiceManager
from chatflow.lifecycle.ordered_services import OrderedServices
from chatflow.lifecycle.process import RootService
from chatflow.lifecycle.reload import Reloads
from chatflow.lifecycle.sharing import SharedCall
from chatflow.lifecycle.supervision import Supervision
from chatflow.lifecycle.threads import NamedThreadPool, QuickThreads, run_in_own_thread
from chatflow.lifecycle.work import Backoff, Outstanding, PeriodicService, in_a_turn

__all__ = [
    "Backoff",
    "NamedThreadPool",
    "OrderedServices",
    "Outstanding",
    "PeriodicService",
    "QuickThreads",
    "Reloads",
    "RootService",
    "ServiceManager",
    "SharedCall",
    "Supervision",
    "in_a_turn",
    "run_in_own_thread",
]
