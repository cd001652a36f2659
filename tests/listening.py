"""Small real HTTP servers on loopback, on free ports, that end with the block they are used in."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def listening(handler):
    """Serve with a handler of requests; yields HOST:PORT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(BaseHTTPRequestHandler):
    """A handler that prints nothing."""

    def log_message(self, *_):
        pass


def answering(content, status=200, kind="application/json"):
    """Answer every GET with the bytes `content`; yields HOST:PORT."""

    class Handler(Quiet):
        def do_GET(self):  # noqa: N802
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(content)

    return listening(Handler)
