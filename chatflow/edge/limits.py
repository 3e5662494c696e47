"""What clients may cost: the limits in force, as one value that can be exchanged while the daemon runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import evolve, fields, frozen
from twisted.logger import Logger

from chatflow.resources import allow_buffers, allowed_files, lacking_files, memory

_log = Logger()


@frozen
class EdgeLimits:
    """See the options of the same names in ``docs/configuration.rst``. A rate or a number of 0 is no limit."""

    max_frame_bytes: int
    max_connections: int
    max_pending_per_connection: int
    max_client_buffer_bytes: int
    send_timeout_seconds: float
    request_seconds: float = 10.0
    max_buffered_bytes: int = 0
    max_connections_per_address: int = 0
    max_unfinished_per_address: int = 0
    connections_per_second_per_address: float = 0
    resumes_per_second_per_address: float = 0
    requests_per_second_per_address: float = 0
    messages_per_second: float = 0
    messages_per_second_per_address: float = 0
    messages_per_second_per_user: float = 0
    bytes_per_second: float = 0
    bytes_per_second_per_address: float = 0
    unlimited_address: tuple[str, ...] = ()
    trusted_proxy: tuple[str, ...] = ()
    public_host: tuple[str, ...] = ()
    compress: bool = False

    @classmethod
    def of(cls, options: object) -> EdgeLimits:
        """:param options: what has them as attributes."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})


class LimitsInForce:
    """Those that hold now.

    Rates, and numbers of connections, hold from the next message or connection on; what a connection was given at its
    handshake, such as the size of its buffer, it keeps.

    :ivar limits: read them anew each time.
    """

    def __init__(self, limits: EdgeLimits) -> None:
        self.limits = limits

    def fit_process(self) -> None:
        """Settle how much may wait for clients, and warn if there cannot be as many as there may. Called at the start.

        :raises StartupError: more was asked for than the process may have.
        """
        lacking = lacking_files(self.limits.max_connections, allowed_files())
        if lacking:
            _log.warn("{lacking}", lacking=lacking)
        self.limits = self._settled(self.limits)

    def changes(self) -> dict[str, Callable[[Any], object]]:
        """For the name of each option what puts a new value of it in force."""
        return {field.name.replace("_", "-"): partial(self._change, field.name) for field in fields(EdgeLimits)}

    def _change(self, name: str, value: Any) -> None:
        """Put a value in its place.

        :raises StartupError: more memory is asked for than the process may have; then nothing has changed.
        """
        self.limits = self._settled(evolve(self.limits, **{name: value}))

    def _settled(self, limits: EdgeLimits) -> EdgeLimits:
        return evolve(limits, max_buffered_bytes=allow_buffers(limits.max_buffered_bytes, memory()))
