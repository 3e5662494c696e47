"""Connections have Autobahn's options by their class, and not each a copy of them."""

from __future__ import annotations

from autobahn.twisted.websocket import WebSocketServerProtocol

from chatflow.edge.websocket import ChatProtocol
from tests.edge.rig import rigged


def test_a_connection_has_each_option_of_the_factory_and_copies_none() -> None:
    options = WebSocketServerProtocol.CONFIG_ATTRS
    with rigged() as rig:
        protocol = rig.peer().protocol
        assert {name: getattr(protocol, name) for name in options} == {
            name: getattr(rig.factory, name) for name in options
        }
        assert not vars(protocol).keys() & set(options)


def test_factories_do_not_share_their_options() -> None:
    with rigged() as rig, rigged(compress=True) as other:
        other.factory.setProtocolOptions(tcpNoDelay=False)
        assert type(rig.peer().protocol) is not type(other.peer().protocol)
        assert not vars(ChatProtocol).keys() & set(WebSocketServerProtocol.CONFIG_ATTRS)
