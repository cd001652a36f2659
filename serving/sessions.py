"""ONNX Runtime sessions on the CPU: opened from verified bytes, with the threads that measured best.

Spinning threads wait for work in a loop: they start at once and take a core from whoever else needs
it. So a way that takes more of the machine must be faster by `LEAST_GAIN` to be chosen, and for short runs by
`LEAST_GAIN_SHORT`: beside those, reading and writing requests takes as long as the model, on the cores that are left.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnxruntime

INLINE_S = 1e-3  # a shorter run is made on the event loop, see `serving.batcher`
LEAST_GAIN = 1.2  # 10 % from a second core is a bad bargain: clients and the event loop need it too
LEAST_GAIN_SHORT = 2.0  # a CNN 1.6 x as fast with two threads: 25k requests/s, with one 33k (docs/decisions/0021)
SIZES = (1, 32)  # rows: what latency is about, and what throughput is about
SIZE_S = 0.25  # for all ways to run one size of batch
ROUNDS, MOST_RUNS, BLOCK_S = 15, 50, 0.004  # each way runs in blocks, so many in turn
COOLING_S = 0.002  # until threads that spin have given up: they would slow whoever is timed next
SMALL_BYTES = 64_000_000  # below this a model is opened in several ways, and may stay in two
SPINNING = {"no": ("0", "0"), "in a run": ("1", "1"), "always": ("1", "0")}

Run = Callable[[], object]


@dataclass(frozen=True)
class Threads:
    """How a run uses the cores. spinning: no, in a run (stops with the last run), or always."""

    count: int
    spinning: str = "no"

    def __str__(self) -> str:
        """Return how it is named in logs: `2 threads, spinning in a run`."""
        threads = f"{self.count} thread{'s' if self.count > 1 else ''}"
        return threads if self.spinning == "no" else f"{threads}, spinning {self.spinning}"


@dataclass(frozen=True)
class Way:
    """An open session and how it runs."""

    threads: Threads
    session: onnxruntime.InferenceSession


@dataclass(frozen=True)
class Choice:
    """small: runs batches of fewer than `split` rows, large all others; often the same.

    measured: the seconds of a run by batch rows, of every way that was tried.
    """

    small: Way
    large: Way
    split: int
    measured: dict[Threads, dict[int, float]]

    def expected_s(self, rows: int) -> float:
        """Return the seconds of a run of `rows` rows, by a line through what was measured of the way that runs it."""
        base, slope = self._few if rows < self.split else self._many
        return base + slope * rows

    @cached_property
    def _few(self) -> tuple[float, float]:
        return line(self.measured[self.small.threads])

    @cached_property
    def _many(self) -> tuple[float, float]:
        return line(self.measured[self.large.threads])


def ways(asked: int, cores: int, size_bytes: int) -> list[Threads]:
    """Return the ways to try, the one that takes least of the machine first.

    asked: the number of threads if someone chose it, else 0. A model of many bytes is opened once.
    """
    count = asked or cores
    if count == 1:
        return [Threads(1)]
    if size_bytes > SMALL_BYTES:
        return [Threads(count, "in a run")]
    several = [Threads(count, spinning) for spinning in SPINNING]
    return several if asked else [Threads(1), *several]


def options(threads: Threads) -> onnxruntime.SessionOptions:
    """Return the options of a session that runs so."""
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = threads.count
    made.log_severity_level = 4  # what fails is raised, and would be told twice
    spin, stop = SPINNING[threads.spinning]
    made.add_session_config_entry("session.intra_op.allow_spinning", spin)
    made.add_session_config_entry("session.force_spinning_stop", stop)
    return made


def choose(opened: list[Way], output: str, name: str, rows: np.ndarray) -> Choice:
    """Return which of the sessions runs which size of batch, by the time of each on `rows` (n, *shape)."""
    few, many = SIZES
    measured: dict[Threads, dict[int, float]] = {way.threads: {} for way in opened}
    for size in SIZES:
        if size == many and many * sum(took[few] for took in measured.values()) > SIZE_S:
            break
        runs = {way.threads: _bound(way.session, output, name, rows, size) for way in opened}
        for threads, seconds in _times(runs).items():
            measured[threads][size] = seconds
    by_threads = {way.threads: way for way in opened}
    small, large, split = decide(measured)
    return Choice(by_threads[small], by_threads[large], split, measured)


def decide(measured: dict[Threads, dict[int, float]]) -> tuple[Threads, Threads, int]:
    """Return how to run few rows and how many, and the rows from which on the second is used.

    measured: the seconds of a run by batch rows, of each way, the one that takes least of the machine first.
    """
    small, large, split = _faster(measured)
    thrifty = next(iter(measured))
    short = _short_rows(measured[thrifty])
    gain = max(_seconds_of(measured[thrifty], size) / _seconds_of(measured[large], size) for size in SIZES)
    if large.count == thrifty.count or not short or gain >= LEAST_GAIN_SHORT:
        return small, large, split
    return thrifty, large, max(split, short + 1)


def _faster(measured: dict[Threads, dict[int, float]]) -> tuple[Threads, Threads, int]:
    few, many = SIZES
    small, large = (_thriftiest(measured, size) for size in SIZES)
    if measured[large][few] <= LEAST_GAIN * measured[small][few]:
        return large, large, 1
    if _seconds_of(measured[small], many) <= LEAST_GAIN * _seconds_of(measured[large], many):
        return small, small, 1
    return small, large, _crossing(measured[small], measured[large])


def line(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Return the seconds of a run without rows, and of each row, from the times of one or two sizes."""
    (few, took), (many, took_many) = min(seconds.items()), max(seconds.items())
    if few == many:
        return 0.0, took / few
    slope = max(0.0, (took_many - took) / (many - few))
    return max(0.0, took - slope * few), slope


def _bound(session: onnxruntime.InferenceSession, output: str, name: str, rows: np.ndarray, size: int) -> Run:
    batch = {name: np.resize(rows, (size, *rows.shape[1:]))}
    return lambda: session.run([output], batch)


def _times(runs: dict[Threads, Run]) -> dict[Threads, float]:
    # In turns, so that what else the machine does meets all alike.
    took = {threads: [min(_seconds(run), _seconds(run))] for threads, run in runs.items()}
    until = time.perf_counter() + SIZE_S - 3 * sum(first for (first,) in took.values())
    for _ in range(ROUNDS):
        if time.perf_counter() > until:
            break
        for threads, run in runs.items():
            took[threads] += [_seconds(run) for _ in range(min(MOST_RUNS, int(BLOCK_S / min(took[threads])) + 1))]
            time.sleep(COOLING_S if threads.spinning != "no" else 0)
    # The lower quartile: what else runs for a moment makes some runs longer, and of several threads more of them.
    return {threads: float(np.quantile(seconds, 0.25)) for threads, seconds in took.items()}


def _thriftiest(measured: dict[Threads, dict[int, float]], size: int) -> Threads:
    best = next(iter(measured))
    for threads, took in measured.items():
        if _seconds_of(measured[best], size) > LEAST_GAIN * _seconds_of(took, size):
            best = threads
    return best


def _seconds_of(took: dict[int, float], size: int) -> float:
    return took.get(size, took[SIZES[0]])  # a model too slow to be timed with many rows is judged by one


def _short_rows(took: dict[int, float]) -> int:
    # The most rows of a run that is made on the event loop, 0 if one takes longer; a row takes a nanosecond at least.
    base, slope = line(took)
    return max(0, int((INLINE_S - base) / max(slope, 1e-9)))


def _crossing(small: dict[int, float], large: dict[int, float]) -> int:
    # The rows from which on `large` is faster, by a line through the times of each.
    few, many = SIZES
    (base, slope), (base_large, slope_large) = line(small), line(large)
    return min(many, max(few + 1, round((base_large - base) / (slope - slope_large))))


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
