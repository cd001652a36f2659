"""A process is gone when nothing of it runs any more, be it taken away by its parent or not."""

import os
import subprocess
import sys
from pathlib import Path

from ending import children_of, gone

BEHEADED = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
print("up", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_whose_first_thread_is_dead_is_there_until_the_last_one_is(eventually):
    process = subprocess.Popen([sys.executable, "-c", BEHEADED], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"up\n"
        state = Path(f"/proc/{process.pid}/stat")
        eventually("the death of the first thread", lambda: state.read_text().rpartition(")")[2].split()[0] == "Z")
        assert not gone(process.pid) and process.pid in children_of(os.getpid())
        process.kill()
        eventually("its end, though nobody has waited for it", lambda: gone(process.pid))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert gone(process.pid) and process.pid not in children_of(os.getpid())
