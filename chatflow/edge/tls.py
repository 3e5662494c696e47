"""TLS of an endpoint ``ssl:…``: key and certificate can be read again while the daemon listens."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

_SCHEME = "ssl"


def is_tls(description: str) -> bool:
    """Whether an endpoint's description is one of Twisted's ``ssl:`` (Twisted, "Getting connected with endpoints")."""
    return description.partition(":")[0] == _SCHEME


@implementer(IOpenSSLServerConnectionCreator)
class Certificates:
    """What new connections of one endpoint are encrypted with: TLS 1.2 or newer.

    :param description: names the files: ``ssl:PORT:privateKey=FILE:certKey=FILE:extraCertChain=FILE``.
    :raises Exception: of many kinds: a file cannot be read, or holds no key or certificate, or they do not match.
    """

    def __init__(self, reactor: Any, description: str) -> None:
        self._reactor = reactor
        self._description = description
        self._context, self._told, self.endpoint = self._read()
        self.endpoint._sslContextFactory = self  # what it was given is for ever

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        """See :class:`IOpenSSLServerConnectionCreator`."""
        from OpenSSL import SSL

        return SSL.Connection(self._context, None)

    def read_again(self) -> str | None:
        """Read the files again: connections that are made from now on get the new certificate, all others live on.

        :returns: which one it is, or None if it is the same as before.
        :raises Exception: as at the start; what was read last stays.
        """
        before = self._told
        self._context, self._told, _ = self._read()
        return None if self._told == before else self.describe()

    def describe(self) -> str:
        """Whose certificate it is, and until when it is valid."""
        from cryptography import x509

        certificate = x509.load_der_x509_certificate(self._told)
        until = certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"the certificate of {certificate.subject.rfc4514_string()}, valid until {until}"

    def _read(self) -> tuple[Any, bytes, Any]:
        """Context, certificate, and an endpoint that is given them."""
        from OpenSSL import SSL, crypto

        # Its parser is the one that knows what may stand in a description, and reads the files.
        endpoint: Any = serverFromString(self._reactor, self._description)
        options = endpoint._sslContextFactory
        context = options.getContext()  # fails when key and certificate do not match
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        return context, crypto.dump_certificate(crypto.FILETYPE_ASN1, options.certificate), endpoint


def tls_reason(error: BaseException | None) -> str:
    """What is wrong with an endpoint ``ssl:…``, in one line. OpenSSL's errors are lists of its own functions' names."""
    if isinstance(error, CannotListenError):
        return str(error)
    if isinstance(error, ImportError):
        return "TLS needs more packages, pip install 'chatflow[tls]'"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename if isinstance(error.filename, str) else error.filename.decode()}: {error.strerror}"
    if type(error).__module__.startswith("OpenSSL"):
        return "privateKey and certKey must name PEM files of a key without a passphrase and of a certificate"
    return str(error) or type(error).__name__
