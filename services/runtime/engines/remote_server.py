"""Where engines run that are another server's."""

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """A server of the Open Inference Protocol.

    Attributes:
        address: `host:port` of its gRPC endpoint.
        timeout_s: most seconds of one call; the deadline of the request that it is for may be
            nearer.
        shared_memory: whether tensors may go through shared memory, which they do if the server
            is on this machine and offers it.
    """

    address: str
    timeout_s: float = 60.0
    shared_memory: bool = True

    @property
    def is_local(self) -> bool:
        """Returns whether the address is this machine's own."""
        host = self.address.rpartition(":")[0].strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"
