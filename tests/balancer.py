"""A balancer as plain as they come: it asks /readyz of its servers, sends requests to those that are ready, and
never sends one twice. It reads requests of one size, as `load` sends them, and answers that say their length."""

import asyncio
import contextlib
import threading


class Balancer:
    """Listens on `address` from `with` to its end; ready: servers that are. failed: why it had to answer 502.

    moves_on: a server that does not take a connection, or loses one, gets no more before it says that it is ready; what
    was not sent yet goes to another.
    """

    def __init__(self, servers, size_bytes, every_s=0.1, moves_on=False):
        self.address = None
        self._moves_on = moves_on
        self.failed, self.ready = [], []
        self._idle = {server: [] for server in servers}
        self._size, self._every_s, self._turn = size_bytes, every_s, 0
        self._up, self._stop = threading.Event(), None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self):
        self._thread.start()
        self._up.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.address = server.sockets[0].getsockname()
        watchers = [asyncio.create_task(self._watch(one)) for one in self._idle]
        self._up.set()
        await self._stop.wait()
        server.close()
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        for writer in [writer for idle in self._idle.values() for _, writer in idle]:
            await _close(writer)

    async def _watch(self, server):
        while True:
            try:
                ready = await _is_ready(server)
            except OSError:
                ready = False
            if ready != (server in self.ready):
                (self.ready.append if ready else self.ready.remove)(server)
            await asyncio.sleep(self._every_s)

    async def _client(self, reader, writer):
        try:
            while content := await reader.readexactly(self._size):
                writer.write(await self._pass_on(content))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await _close(writer)

    async def _pass_on(self, content):
        server = writer = None
        try:
            server, reader, writer = await self._chosen()
            writer.write(content)
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            answer = head + await reader.readexactly(size)
        except (OSError, EOFError, ArithmeticError) as error:
            self.failed.append(repr(error))
            if writer is not None:
                await _close(writer)
            if self._moves_on and server is not None:
                await self._leave(server)
            return b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"
        except asyncio.CancelledError:
            if writer is not None:
                writer.close()
            raise
        if b"connection: close" in head.lower():
            await _close(writer)
            return answer.replace(b"connection: close\r\n", b"", 1)
        self._idle[server].append((reader, writer))
        return answer

    async def _chosen(self):
        while True:
            self._turn += 1
            server = self.ready[self._turn % len(self.ready)]
            try:
                return server, *await self._connection(server)
            except OSError:
                if not self._moves_on:
                    raise
                await self._leave(server)

    async def _leave(self, server):
        with contextlib.suppress(ValueError):
            self.ready.remove(server)
        idle, self._idle[server] = self._idle[server], []
        for _, writer in idle:
            await _close(writer)

    async def _connection(self, server):
        while self._idle[server]:
            reader, writer = self._idle[server].pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            await _close(writer)
        return await asyncio.open_connection(*server)


async def _is_ready(server):
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    finally:
        await _close(writer)


async def _close(writer):
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
