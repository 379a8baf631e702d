"""LocalStack's gateway on loopback only.

LocalStack's own twisted server ignores the host in `GATEWAY_LISTEN` and listens on every interface;
an emulator that runs whatever code it is sent must not. This one binds the host that is asked for,
refuses one that is not loopback, and speaks plain HTTP only. A port that is taken ends the start.
"""

import ipaddress

from localstack.runtime.server.twisted import TwistedRuntimeServer
from rolo.serving.twisted import TwistedGateway
from twisted.internet import reactor


class LoopbackServer(TwistedRuntimeServer):
    """The twisted server, bound where `GATEWAY_LISTEN` says."""

    def register(self, gateway, listen, ssl_creds=None):
        """Binds every address of `listen` for plain HTTP; `ssl_creds` are not used."""
        site = TwistedGateway(gateway)
        for address in listen:
            if not ipaddress.ip_address(address.host).is_loopback:
                raise ValueError(
                    f"GATEWAY_LISTEN: {address.host} is not loopback; use 127.0.0.1:{address.port}"
                )
            reactor.listenTCP(address.port, site, interface=address.host)
