"""A relay before a server, that counts the bytes of both directions and can hold them back."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from .server import Server

PIECE = 64 << 10


class Relay:
    """Counts what passes; `rate` bytes a second in each direction, all connections together."""

    def __init__(self, address: str, rate: int | None) -> None:
        host, port = address.split(":")
        self._upstream = (host, int(port))
        self._rate = rate
        self._lock = threading.Lock()
        self._due = [0.0, 0.0]
        self._bytes = [0, 0]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        """Begins to count anew."""
        with self._lock:
            self._bytes = [0, 0]

    def sent(self) -> int:
        """Bytes from the clients."""
        return self._bytes[0]

    def received(self) -> int:
        """Bytes to the clients."""
        return self._bytes[1]

    def close(self) -> None:
        """Takes no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._upstream)
            except OSError:
                client.close()
                continue
            for index, (source, target) in enumerate(((client, server), (server, client))):
                threading.Thread(
                    target=self._pump, args=(source, target, index), daemon=True
                ).start()

    def _pump(self, source: socket.socket, target: socket.socket, index: int) -> None:
        try:
            while piece := source.recv(PIECE):
                self._count(index, len(piece))
                target.sendall(piece)
        except OSError:
            pass
        finally:
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            source.close()

    def _count(self, index: int, count: int) -> None:
        with self._lock:
            self._bytes[index] += count
            if self._rate is None:
                return
            now = time.monotonic()
            self._due[index] = max(self._due[index], now) + count / self._rate
            wait = self._due[index] - now
        time.sleep(wait)


@contextmanager
def relayed(server: Server, rate: int | None) -> Iterator[tuple[Server, Relay]]:
    """The server as it is seen through a relay."""
    relay = Relay(server.address, rate)
    environment = {**server.environment, "AWS_ENDPOINT_URL": f"http://{relay.address}"}
    try:
        yield replace(server, environment=environment, counts=False), relay
    finally:
        relay.close()
