"""`prolong bench weights-socket`, at a size that tests can bear."""

import threading
from multiprocessing import Pipe

import msgspec
import pytest
import zmq
from prolong.bench.weights_socket import pull_once, serve_random
from prolong.common.messages import UpdateWeights
from prolong.common.transport.keys import ClientKeys


class ServerInAThread:
    def __init__(self, *, keyed: bool) -> None:
        self._pipe, theirs = Pipe()
        public, secret = zmq.curve_keypair()
        self.keys = ClientKeys(secret=secret, public=public, buffer=b"") if keyed else None
        arguments = (theirs, 16, zmq.curve_keypair()[1], public.decode()) if keyed else (theirs, 16, b"", "")
        self._thread = threading.Thread(target=serve_random, args=arguments)
        self._thread.start()
        self.update = msgspec.msgpack.decode(self._pipe.recv_bytes(), type=UpdateWeights)

    def cpu_s(self) -> tuple[float, float]:
        self._pipe.send_bytes(b"?")
        return msgspec.msgpack.decode(self._pipe.recv_bytes(), type=tuple[float, float])

    def close(self) -> None:
        self._pipe.send_bytes(b"")
        self._thread.join(10.0)


@pytest.mark.parametrize("keyed", [False, True])
def test_a_snapshot_comes_and_is_measured(keyed):
    server = ServerInAThread(keyed=keyed)
    try:
        for streams in (1, 2):
            figures = pull_once(server, streams)
            assert list(figures) == ["MB/s", "puller", "server", "serving thread"]
            assert all(value > 0 for value in figures.values())
            assert figures["serving thread"] < figures["server"]
    finally:
        server.close()
