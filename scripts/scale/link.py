"""A link of so many bits a second on this machine: what is sent through it comes no faster.

    python3 scripts/scale/link.py --to 127.0.0.1:8080 --bits 1e9

prints the address to connect to. Each direction is held to the rate by itself, as on a full-duplex link; connections
share it. Only addresses of this machine can be led to.
"""

import argparse
import ipaddress
import socket
import sys
import threading
import time

CHUNK = 1 << 18


class Rate:
    """A bucket that fills at a rate: whoever takes more than is in it waits."""

    def __init__(self, bits: float):
        self.bytes_per_second = bits / 8
        self.free_at = time.monotonic()
        self.lock = threading.Lock()
        self.passed = 0

    def take(self, count: int):
        with self.lock:
            now = time.monotonic()
            # What was not used for a while is lost, but for a moment's worth.
            self.free_at = max(self.free_at, now - 0.002) + count / self.bytes_per_second
            self.passed += count
            wait = self.free_at - now
        if wait > 0:
            time.sleep(wait)


class Link:
    """Listens on a free port of this machine and leads to an address of it."""

    def __init__(self, to: tuple, bits: float):
        if not ipaddress.ip_address(to[0]).is_loopback:
            raise ValueError(f"{to[0]} is no address of this machine's own")
        self.to = to
        self.there, self.back = Rate(bits), Rate(bits)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "%s:%d" % self.listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.to)
            except OSError:
                client.close()
                continue
            for source, sink, rate in ((client, server, self.there), (server, client, self.back)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass, args=(source, sink, rate), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, rate: Rate):
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        try:
            while count := source.recv_into(buffer):
                rate.take(count)
                sink.sendall(view[:count])
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                end.close()

    def close(self):
        self.listener.close()


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("--to", required=True, help="ADDRESS:PORT of this machine")
    about.add_argument("--bits", type=float, default=1e9, help="bits a second")
    args = about.parse_args()
    host, port = args.to.rsplit(":", 1)
    try:
        link = Link((host, int(port)), args.bits)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(link.address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
