"""TLS in front of a server that has none."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

CERTIFICATE = Path(__file__).with_suffix(".pem")  # of 127.0.0.1, signed by itself; its key guards nothing but tests


class Front:
    """Listens with TLS on ``url`` and passes everything on to a server on 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(CERTIFICATE)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self._listener.getsockname()[1]}?ssl_ca_certs={CERTIFICATE}"

    def close(self) -> None:
        """Once its clients are gone."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                raw, _ = self._listener.accept()
                near = self._context.wrap_socket(raw, server_side=True)
                far = socket.create_connection(("127.0.0.1", self._port))
                for source, target in ((near, far), (far, near)):
                    self._threads.append(threading.Thread(target=_pump, args=(source, target)))
                    self._threads[-1].start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
