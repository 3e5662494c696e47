"""One table of options becomes a command line for twistd, environment variables, INI keys and a manual.

- :mod:`~chatflow.options.kinds`: what a value may be
- :mod:`~chatflow.options.table`: an option, a table of them, their names in each source
- :mod:`~chatflow.options.sources`: values from command line, environment and file, each with its source (pure)
- :mod:`~chatflow.options.manual`: the table for people, as help and as a page of the documentation (pure)
- :mod:`~chatflow.options.command_line`: the :class:`twisted.python.usage.Options` that twistd asks for
"""

from chatflow.options.command_line import CommandLine, read_file
from chatflow.options.kinds import Choice, Flag, Integer, Kind, Number, Text, Url
from chatflow.options.sources import check_order, load
from chatflow.options.table import Option, Setting, Table
from chatflow.passwords import mask_password

__all__ = [
    "Choice",
    "CommandLine",
    "Flag",
    "Integer",
    "Kind",
    "Number",
    "Option",
    "Setting",
    "Table",
    "Text",
    "Url",
    "check_order",
    "load",
    "mask_password",
    "read_file",
]
