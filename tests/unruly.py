"""A real HTTP server on loopback that speaks enough of the protocol for a client, and misbehaves when told to."""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from demo.stack import free_ports


@dataclass
class Seen:
    """One request as it came. connection: which one, counted from 0."""

    path: str
    headers: dict
    body: bytes
    connection: int
    at_s: float


@dataclass
class Unruly:
    """`script` holds what the next requests meet, in turn; after it every request is answered well."""

    port: int = 0
    script: list = field(default_factory=list)
    seen: list = field(default_factory=list)
    connections: int = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def infers(self):
        return [one for one in self.seen if one.path.endswith("/infer")]

    async def serve(self, reader, writer):
        """Answer one connection until somebody closes it."""
        number, self.connections = self.connections, self.connections + 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *lines = head.decode().rstrip().split("\r\n")
                path = line.split(" ")[1]
                headers = {k.lower(): v.strip() for k, v in (one.split(":", 1) for one in lines)}
                deed = self.script.pop(0) if self.script and path.endswith(("/infer", "/labels")) else well
                if deed is too_large:
                    await too_large(writer, None)
                    return
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.seen.append(Seen(path, headers, body, number, time.monotonic()))
                await deed(writer, self.seen[-1])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def reply(status, body, *headers):
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def refuse(status, said, *headers):
    """Return a deed: answer with this status and error."""

    async def deed(writer, _):
        writer.write(reply(status, json.dumps(said).encode(), *headers))

    return deed


async def well(writer, request):
    writer.write(right(request))


async def and_close(writer, request):
    """Answer, and close without a word in the head of the answer."""
    writer.write(right(request))
    await writer.drain()
    writer.close()


async def reset(writer, _):
    writer.transport.abort()


async def silence(writer, _):
    await asyncio.sleep(3600)  # cancelled with the server


async def truncated(writer, request):
    writer.write(right(request)[:-3])
    await writer.drain()
    writer.close()


async def drip(writer, request):
    """Send a byte now and then, for ever."""
    writer.write(b"HTTP/1.1 200 X\r\nx: ")
    while not writer.is_closing():
        writer.write(b"x")
        await asyncio.sleep(0.02)


async def too_large(writer, _):
    """Refuse before the body is read, and hang up."""
    writer.write(reply(413, b'{"error":"body: larger than 10 bytes"}', "connection: close"))
    await writer.drain()


async def garbage(writer, _):
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await writer.drain()
    writer.close()


def right(request):
    """Return the answer of a model of uint8 rows (8, 8) whose outputs are the first two columns, and all of them."""
    if request.path.endswith("/infer"):
        return _infer(request)
    if request.path.endswith("/labels"):
        return reply(200, json.dumps({"accepted": len(json.loads(request.body)["labels"]), "unknown": 0}).encode())
    known = {
        "/v1/model": {"model": "tiny", "version": "1"},
        "/v2/models/tiny": {"inputs": [{"name": "input", "datatype": "UINT8", "shape": [-1, 8, 8]}]},
    }
    if request.path in known:
        return reply(200, json.dumps(known[request.path]).encode())
    return reply(404, b'{"error":"not found"}')


def _infer(request):
    size = int(request.headers["inference-header-content-length"])
    said = json.loads(request.body[:size])
    tensor = said["inputs"][0]
    rows = np.frombuffer(request.body[size:], np.uint8).reshape(tensor["shape"]).astype(np.float32)
    outputs = {"probabilities": rows[:, 0, :2], "logits": rows.reshape(len(rows), -1)}
    names = [f"kind {int(one)} é".encode() for one in rows[:, 0, 0]]
    if said["outputs"] == [{"name": "class"}]:
        return _texts(said["id"], names)
    named = [one["name"] for one in said["outputs"]] or ["probabilities"]
    head = json.dumps(
        {
            "id": said["id"],
            "model_name": "tiny",
            "model_version": "1",
            "outputs": [
                {
                    "name": name,
                    "datatype": "FP32",
                    "shape": outputs[name].shape,
                    "parameters": {"binary_data_size": outputs[name].nbytes},
                }
                for name in named
            ],
        }
    ).encode()
    content = head + b"".join(outputs[name].tobytes() for name in named)
    return reply(200, content, f"Inference-Header-Content-Length: {len(head)}")


def _texts(ident, names):
    content = b"".join(len(name).to_bytes(4, "little") + name for name in names)
    sizes = {"binary_data_size": len(content)}
    tensor = {"name": "class", "datatype": "BYTES", "shape": [len(names)], "parameters": sizes}
    head = json.dumps({"id": ident, "model_name": "tiny", "model_version": "1", "outputs": [tensor]}).encode()
    return reply(200, head + content, f"Inference-Header-Content-Length: {len(head)}")


def run(server):
    """Start `server` in a thread of its own; return what stops it."""
    started, stop = threading.Event(), []

    async def main():
        server.port = free_ports(1)[0]
        listening = await asyncio.start_server(server.serve, "127.0.0.1", server.port)
        over = asyncio.Event()
        stop.append((asyncio.get_running_loop(), over))
        started.set()
        await over.wait()
        listening.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    started.wait(10)

    def end():
        loop, over = stop[0]
        loop.call_soon_threadsafe(over.set)
        thread.join()

    return end
