"""Where the daemon's log goes and how a line of it looks; ``docs/logging.rst`` is for who reads it.

- :mod:`~chatflow.logs.log_options`: what an operator may say about it
- :mod:`~chatflow.logs.formats`: from an event of twisted.logger to text or to a JSON object (pure)
- :mod:`~chatflow.logs.repeats`: what says the same again and again is counted
- :mod:`~chatflow.logs.sinks`: standard output, the journal, a file that is rotated
- :mod:`~chatflow.logs.log`: the observer that twistd is given, made of these
"""

from chatflow.logs.log import Log, LogSettings, log_for
from chatflow.logs.sinks import is_journal

__all__ = ["Log", "LogSettings", "is_journal", "log_for"]
