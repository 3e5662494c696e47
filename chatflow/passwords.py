"""Passwords in addresses: masked where an address is shown, taken out of what others say about it. Pure functions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from urllib.parse import unquote

MASK = "***"

#: Shorter ones would be found in every sentence.
_MIN_CHARACTERS = 3

_LOGIN_IN_TEXT = re.compile(r"(?<=://)([^\s/@:]*):[^\s/]*@")
_SECRET_NAME = re.compile("pass|pwd|secret|token|key|cred")


def mask_password(url: str) -> str:
    """The same URL with ``***`` for each password: of the authority, and of the parameters.

    :param url: in whatever way it is malformed; a single word passes unchanged.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url if re.fullmatch("[a-z-]*", url) else MASK
    address, mark, query = rest.partition("?")
    login, at, place = address.rpartition("@")
    user, colon, _password = _split_login(login)
    if colon:
        login = f"{user}:{MASK}"
    parameters = [
        f"{name}={MASK}" if equals and _is_secret(name, value) else name + equals + value
        for name, equals, value in _parameters(query)
    ]
    return scheme + separator + login + at + place + mark + "&".join(parameters)


def without_passwords(text: str, url: str = "") -> str:
    """A text about an address, fit for everybody's eyes.

    :param text: of a library, which may repeat parts of the address as they were given or decoded.
    :param url: the address; without it, only logins of addresses in the text are masked.
    """
    for secret in sorted(set(_secrets(url)), key=len, reverse=True):
        if len(secret) >= _MIN_CHARACTERS:
            text = text.replace(secret, MASK)
    return _LOGIN_IN_TEXT.sub(rf"\1:{MASK}@", text)


def _secrets(url: str) -> Iterator[str]:
    """Every part that may be a password, or half of one where characters in it were taken for the end of it."""
    _scheme, separator, rest = url.partition("://")
    if not separator:
        return
    address, _mark, query = rest.partition("?")
    authority = address.partition("/")[0]
    login, _at, place = address.rpartition("@")
    candidates = [_split_login(login)[2], *login.split("@")[1:]]
    # postgresql://user:password, without a host
    candidates += [port for port in re.findall(r":([^,:\]]+)", authority.rpartition("@")[2]) if not port.isdigit()]
    candidates += [place.partition("/")[0]] if login.count("@") else []
    candidates += [value for name, _equals, value in _parameters(query) if _is_secret(name, value)]
    for candidate in candidates:
        yield candidate
        yield unquote(candidate)


def _split_login(login: str) -> tuple[str, str, str]:
    """User, colon, password; some write the colon as they must write it in a password."""
    found = re.search(":|%3a", login, re.IGNORECASE)
    return (login[: found.start()], ":", login[found.end() :]) if found else (login, "", "")


def _parameters(query: str) -> Iterator[tuple[str, str, str]]:
    for parameter in query.split("&") if query else ():
        yield parameter.partition("=")


def _is_secret(name: str, value: str) -> bool:
    """Whether a parameter is a password, or was meant to be one: ``pasword``, or behind a wrong separator."""
    name = unquote(name).lower()
    is_like = difflib.SequenceMatcher(None, name, "password").ratio() > 0.7
    return bool(_SECRET_NAME.search(name)) or is_like or bool(re.search("[=;?]", unquote(value)))
