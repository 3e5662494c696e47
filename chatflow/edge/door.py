"""Whom a site does not take is refused before anything is wrapped around its protocol.

TLS and PROXY protocol are factories around that of the site, which cannot pass on that it makes no protocol: they would
encrypt for whoever was refused, at that cost, and fail then with a traceback in the log.
"""

from __future__ import annotations

from typing import Any

from attrs import define
from twisted.internet.interfaces import IAddress, ILoggingContext, IProtocolFactory
from zope.interface import implementer

from chatflow.edge.site import ChatSite


@implementer(IProtocolFactory)
@define(eq=False)
class Door:
    """What a port asks for protocols, in the place of what an endpoint has put around the site.

    :param around: that; it gets its protocols from :class:`Inside`.
    """

    _site: ChatSite
    _around: Any

    def buildProtocol(self, addr: IAddress) -> Any:
        return self._around.buildProtocol(addr) if self._site.takes(addr) else None

    def doStart(self) -> None:
        self._around.doStart()

    def doStop(self) -> None:
        self._around.doStop()


@implementer(IProtocolFactory, ILoggingContext)
@define(eq=False)
class Inside:
    """The site, for who has come through a door already."""

    _site: ChatSite

    def logPrefix(self) -> str:
        return type(self._site).__name__

    def buildProtocol(self, addr: IAddress) -> Any:
        return self._site.serve(addr)

    def doStart(self) -> None:
        self._site.doStart()

    def doStop(self) -> None:
        self._site.doStop()
