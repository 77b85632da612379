"""The meeting of one machine's processes, which nobody outside of the machine can reach. Imports torch.

torch's own rendezvous listens on all addresses, as several machines need it; and it lets whoever asks write into it.
"""

from __future__ import annotations

import socket

from torch.distributed import Store, TCPStore
from torch.distributed.elastic.rendezvous.api import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

NAME = "ftcore_here"
ADDRESS = "127.0.0.1"


class Here(RendezvousHandler):  # type: ignore[misc]
    """The rendezvous of an agent that is alone. Its store is the one at which its workers meet, too."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._closed = False
        with socket.create_server((ADDRESS, 0)) as listening:
            self._port = listening.getsockname()[1]
            self._store: Store = TCPStore(
                ADDRESS, self._port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
            )

    use_agent_store = True

    def get_backend(self) -> str:
        """The name that the agent's settings have for it."""
        return NAME

    def next_rendezvous(self) -> RendezvousInfo:
        """One agent of one, at once."""
        place = RendezvousStoreInfo(master_addr=ADDRESS, master_port=self._port)
        return RendezvousInfo(self._store, 0, 1, place)

    def is_closed(self) -> bool:
        """Whether somebody has closed it."""
        return self._closed

    def set_closed(self) -> None:
        """Nobody shall come any more; nobody would."""
        self._closed = True

    def num_nodes_waiting(self) -> int:
        """None, ever."""
        return 0

    def get_run_id(self) -> str:
        """As the agent's settings have it."""
        return self._run_id

    def shutdown(self) -> bool:
        """The store ends with this object."""
        self._closed = True
        return True


def _here(parameters: RendezvousParameters) -> Here:
    return Here(parameters.run_id)


rendezvous_handler_registry.register(NAME, _here)
