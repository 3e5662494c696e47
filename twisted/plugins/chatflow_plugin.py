"""Tells twistd where ChatFlow's two services are. Nothing is imported here: twistd reads this file always."""

from twisted.application.service import ServiceMaker

chatflow = ServiceMaker(
    "ChatFlow",
    "chatflow.tap",
    "A chat server whose messages are stored, numbered and delivered exactly once.",
    "chatflow",
)
chatflow_load = ServiceMaker(
    "ChatFlow load",
    "chatflow.load.tap",
    "Loads a ChatFlow server and proves what it delivered.",
    "chatflow-load",
)
