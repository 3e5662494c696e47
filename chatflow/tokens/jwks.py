"""A JSON Web Key Set (RFC 7517) in a file or at a URL: read again at times, and when a token names a key that is new.

What cannot be read changes nothing: the keys that were known stay good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chatflow.errors import StartupError
from chatflow.lifecycle.threads import run_in_own_thread
from chatflow.tokens.fetching import TooSlow, fetch_in_thread
from chatflow.tokens.keys import BadKeys, Key, parse_jwks

MAX_JWKS_BYTES = 256 * 1024
_ACCEPT = "application/jwk-set+json, application/json"
#: For all of a request: connection, handshake and answer.
_FETCH_SECONDS = 10.0
#: How often a token with an unknown key id makes the set be read again, at most.
ASK_AGAIN_SECONDS = 10.0
#: How often it is tried as long as no key is known.
RETRY_SECONDS = 5.0

Read = Callable[[str], bytes]


class Jwks:
    """Runs on the reactor thread; reads in one of its own.

    :param source: a path, or a URL of http or https.
    :param refresh_seconds: how often it is read again.
    :param read: of a source, in a thread; raises :class:`BadKeys`.
    """

    _log = Logger()

    def __init__(self, *, reactor: Any, source: str, refresh_seconds: float, read: Read | None = None) -> None:
        self._reactor = reactor
        self._source = source
        self._refresh_seconds = refresh_seconds
        self._read = read or read_in_thread
        self._keys: tuple[Key, ...] = ()
        self._is_reading = False
        self._asked_at: float | None = None
        self._read_at = 0.0

    @property
    def is_known(self) -> bool:
        """Whether there is any key."""
        return bool(self._keys)

    def start(self) -> None:
        """Read a file now; begin to fetch from a URL, without which tokens are answered with 503.

        :raises StartupError: the file cannot be used.
        """
        if not is_url(self._source):
            try:
                self._log_change(self._take(self._read(self._source)))
            except BadKeys as error:
                raise StartupError(f"jwt-jwks = {self._source}: {error}") from None

    def read_again(self) -> str | None:
        """Read a file now, begin to fetch from a URL: what is new, see :meth:`.RootService.read_again`.

        :raises BadKeys: the file cannot be used; the keys that are known stay.
        """
        if not is_url(self._source):
            return self._take(self._read(self._source))
        Deferred.fromCoroutine(self.reload())
        return "fetched again; a line of its own says what has changed, or went wrong"

    async def look(self) -> None:
        """Read it again if that is due. To be called every ``RETRY_SECONDS``."""
        if not self._keys or self._reactor.seconds() - self._read_at >= self._refresh_seconds:
            await self.reload()

    def find(self, algorithm: str, key_id: str | None) -> Sequence[Key]:
        """The keys that can have signed a token with this header."""
        of_algorithm = [key for key in self._keys if key.algorithm == algorithm]
        return of_algorithm if key_id is None else [key for key in of_algorithm if key.key_id == key_id]

    def ask_again(self, key_id: str | None) -> bool:
        """There is no key for a token: whether there may be one soon, since the set is being read, or never was."""
        if self._keys and (key_id is None or any(key.key_id == key_id for key in self._keys)):
            return False  # it is known, and is of another algorithm
        now = self._reactor.seconds()
        if not self._is_reading and (self._asked_at is None or now - self._asked_at >= ASK_AGAIN_SECONDS):
            self._asked_at = now
            Deferred.fromCoroutine(self.reload())
        return self._is_reading or not self._keys

    async def reload(self) -> None:
        """Read it now, unless that is under way. What came of it is logged. Never raises."""
        if self._is_reading:
            return
        self._is_reading = True
        try:
            data = await run_in_own_thread(self._reactor, "read JWKS", lambda: self._read(self._source))
            self._log_change(self._take(data))
        except BadKeys as error:
            told = f"{error}; the {len(self._keys)} keys that are known stay"
            self._log.error("the keys of {source} cannot be read: {reason}", source=self._source, reason=told)
        except Exception:
            self._log.failure("the keys of {source} cannot be read", source=self._source)
        finally:
            self._is_reading = False

    def _take(self, data: bytes) -> str | None:
        """What is new about the keys; None if they are as before."""
        before, keys = self._keys, parse_jwks(data)
        self._read_at = self._reactor.seconds()
        self._keys = keys
        named = {(key.algorithm, key.key_id) for key in keys}
        known = {(key.algorithm, key.key_id) for key in before}
        if named == known and len(keys) == len(before):
            return None
        return f"{len(keys)} keys, {len(named - known)} new, {len(known - named)} gone"

    def _log_change(self, told: str | None) -> None:
        if told is not None:
            self._log.info("the keys of {source}: {told}", source=self._source, told=told)


def is_url(source: str) -> bool:
    """Whether it is not a path."""
    return "://" in source


def read_in_thread(source: str, seconds: float = _FETCH_SECONDS) -> bytes:
    """What is there, bounded in size and time.

    :param seconds: for all of a request.
    :raises BadKeys: it cannot be read.
    """
    try:
        if is_url(source):
            return _bounded(fetch_in_thread(source, _ACCEPT, MAX_JWKS_BYTES, seconds))
        with Path(source).open("rb") as file:
            data = file.read(MAX_JWKS_BYTES + 1)
    except TooSlow:
        raise BadKeys(f"the answer takes longer than {seconds:g} s") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise BadKeys(getattr(error, "strerror", None) or " ".join(str(reason).split())[:200]) from None
    return _bounded(data)


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_JWKS_BYTES:
        raise BadKeys(f"it is longer than {MAX_JWKS_BYTES} bytes")
    return data
