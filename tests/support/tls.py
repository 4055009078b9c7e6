"""A TLS front for a server that has no TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

# Self-signed, for 127.0.0.1 and localhost; its key protects nothing but tests.
CERTIFICATE = Path(__file__).with_suffix(".pem")


class Front:
    """Listens with TLS on ``url`` and passes all data on to a server on 127.0.0.1."""

    def __init__(self, port: int, *, wants_certificate: bool = False) -> None:
        """wants_certificate: accept only clients that present the certificate."""
        self._port = port
        self.names: list[str | None] = []  # the server name that each connection asked for (SNI)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(CERTIFICATE)
        self._context.sni_callback = lambda _connection, name, _context: self.names.append(name)
        if wants_certificate:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(CERTIFICATE)
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}?ssl_ca_certs={CERTIFICATE}"

    def _secured(self, raw: socket.socket) -> socket.socket:
        return self._context.wrap_socket(raw, server_side=True)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                raw, _ = self._listener.accept()
                raw.settimeout(30)  # for the handshake
                # As servers do, so that a small write does not wait for the ack of the last one.
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    near = self._secured(raw)
                except OSError:  # the client or this front rejects the other's certificate
                    raw.close()
                    continue
                near.settimeout(None)
                far = socket.create_connection(("127.0.0.1", self._port))
                self._ends += (near, far)
                for source, target in ((near, far), (far, near)):
                    self._threads.append(threading.Thread(target=_pump, args=(source, target)))
                    self._threads[-1].start()


class PlainFront(Front):
    """The same without TLS, for comparison."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def _secured(self, raw: socket.socket) -> socket.socket:
        return raw


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
