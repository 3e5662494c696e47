"""What an operator may say about the log: a part of the daemon's table of options."""

from __future__ import annotations

from chatflow.options import Choice, Integer, Option, Text

_GROUP = "Log"

LOG_OPTIONS = (
    Option(
        name="log-level",
        kind=Choice(("debug", "info", "warn", "error", "critical")),
        default="info",
        group=_GROUP,
        help="The least important events that are logged. Can be changed while the daemon runs: SIGHUP reads the "
        "file of --config again.",
    ),
    Option(
        name="log-format",
        kind=Choice(("text", "json")),
        default="text",
        group=_GROUP,
        help="`text` is for people. `json` writes each event as one object on one line, with its named fields: see "
        "docs/logging.rst.",
    ),
    Option(
        name="log-file",
        kind=Text("the path of a file, or -", placeholder="FILE"),
        default="-",
        group=_GROUP,
        help="Logs into this file, which is rotated as --log-file-bytes says; SIGUSR1 begins it anew, for a "
        "rotation from outside. - is what twistd's --logfile names, else standard output, or in the background "
        "./twistd.log. Where standard output is systemd's journal, each line says how important it is.",
    ),
    Option(
        name="log-file-bytes",
        kind=Integer(10_000, 1_000_000_000_000, "bytes"),
        default=10_000_000,
        group=_GROUP,
        help="When the log file is as large as this it becomes FILE.1, and a new one is begun.",
    ),
    Option(
        name="log-files-kept",
        kind=Integer(1, 1000, "files"),
        default=5,
        group=_GROUP,
        help="How many full log files are kept, from FILE.1 to FILE.5; the oldest is removed.",
    ),
)
