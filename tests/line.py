"""A connection in this process that keeps what is written to it."""

import asyncio


class Line(asyncio.Transport):
    """written: all of it. paused: whether nothing is read. ended_s: when it was told to end, on the loop's clock."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.closed = self.paused = False
        self.ended_s = None

    def write(self, data):
        self.written += data

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.ended_s = self.ended_s or asyncio.get_running_loop().time()

    def close(self):
        self.write_eof()
        self.closed = True

    def is_closing(self):
        return self.closed

    def get_extra_info(self, name, default=None):
        return default

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False
