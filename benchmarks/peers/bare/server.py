"""The least that answers: one run of ONNX Runtime for all requests that came in one turn of the event loop.

It checks nothing, counts nothing and takes every body for whole rows. What lies between it and a real server is what
that server does for each request and each run; what lies between it and any wish is sockets and waking up.
"""

import asyncio
import os
import sys
import time

import numpy as np
import onnxruntime
import uvloop

AWAKE_S = 50e-6  # after an answer, as ours
PAUSE_S = float(os.environ["PAUSE_US"]) * 1e-6  # added to each run

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(os.environ["THREADS"])
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
shape = (-1, *session.get_inputs()[0].shape[1:])


class Turn:
    """What came in this turn of the loop."""

    def __init__(self) -> None:
        self.asked: list[tuple[asyncio.Transport, bytes]] = []
        self._awake_until = 0.0

    def add(self, transport: asyncio.Transport, body: bytes) -> None:
        """Take one request."""
        if not self.asked:
            asyncio.get_running_loop().call_soon(self._answer)
        self.asked.append((transport, body))

    def _answer(self) -> None:
        asked, self.asked = self.asked, []
        rows = np.frombuffer(b"".join([body for _, body in asked]), np.float32).reshape(shape)
        outputs = session.run(["probabilities"], {"input": rows})[0]
        row_bytes, answers, at = rows[0].nbytes, outputs.tobytes(), 0
        until = time.perf_counter() + PAUSE_S
        while time.perf_counter() < until:
            pass
        for transport, body in asked:
            end = at + len(body) // row_bytes * outputs[0].nbytes
            if not transport.is_closing():
                transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (end - at, answers[at:end]))
            at = end
        self._awake_until = time.perf_counter() + AWAKE_S
        self._stay()

    def _stay(self) -> None:
        if not self.asked and time.perf_counter() < self._awake_until:
            asyncio.get_running_loop().call_soon(self._stay)


class Connection(asyncio.Protocol):
    """One connection of a client that waits for each answer."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._came = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request."""
        data = self._came + data if self._came else data
        head = data.find(b"\r\n\r\n") + 4
        if data.startswith(b"GET"):
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        length = data.find(b"Content-Length: ", 0, head)
        if head < 4 or len(data) < head + int(data[length + 16 : data.find(b"\r", length)]):
            self._came = data
            return
        self._came = b""
        self._turn.add(self._transport, data[head:])


async def main() -> None:
    """Serve until ended."""
    turn = Turn()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(turn), "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
