"""Faults of a release: it hangs, fails, is slow or bad, or cannot be loaded."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from demo import house
from demo.stack import wait_for
from drill import graphs
from drill.fault import Fault
from drill.stage import Body, Stage, kill

PATIENCE_S = 1.0  # of the callers that meet a model that hangs
SLOW_S = 0.45
RUN_S = 0.01  # long enough for a thread of its own, see serving.sessions.INLINE_S
CROWDED = ("VigilRejectingRequests", "VigilSaturated", "VigilQueueWaitHigh", "VigilBatchingIneffective")
BROKEN = b"\x08\x0a\x12\x04none this is no graph"


@contextmanager
def _endless(stage: Stage) -> Iterator[None]:
    # A model whose runs are quick is run on the event loop, where the watchdog has to end what never ends by itself.
    release = stage.variant("endless on one row", graphs.trapped)
    with _live(stage, release), stage.meanwhile(_sends(stage, graphs.HANGS), 0.5):
        yield
        stage.rollback()


@contextmanager
def _hung(stage: Stage) -> Iterator[None]:
    def change(content: bytes) -> bytes:
        return graphs.trapped(graphs.slowed(content, RUN_S, stage.known.x[:1]))

    with _live(stage, stage.variant("slower, trapped", change)), stage.meanwhile(_sends(stage, graphs.HANGS), 0.05, 2):
        yield
        stage.rollback()


@contextmanager
def _errors(stage: Stage) -> Iterator[None]:
    with _live(stage, stage.variant("trapped", graphs.trapped)), stage.meanwhile(_sends(stage, graphs.FAILS), 0.1):
        yield
        stage.rollback()


@contextmanager
def _live(stage: Stage, tag: str) -> Iterator[None]:
    # The fault begins with the rows that the release cannot answer.
    stage.promote(tag)
    wait_for(f"{tag} going live", lambda: _serves(stage, tag), 60)
    stage.now()
    yield


def _serves(stage: Stage, tag: str) -> bool | None:
    from demo import stack

    return tag.split(":")[1].encode() in stack.get(stage.house.ports["service"], "/v1/model")[1] or None


def _sends(stage: Stage, pixel: int) -> "Sends":
    row = stage.known.x[:1].copy()
    row[0, 0, 0] = np.uint8(pixel)
    return Sends(stage, {"rows": row.tolist()})


class Sends:
    """A caller whose row the model cannot answer."""

    def __init__(self, stage: Stage, said: Body) -> None:
        self._stage = stage
        self._said = said

    def __call__(self) -> None:
        self._stage.post(self._said, timeout_s=PATIENCE_S)


@contextmanager
def _slow(stage: Stage) -> Iterator[None]:
    tag = stage.variant("slow", lambda content: graphs.slowed(content, SLOW_S, stage.known.x[:1]))
    stage.promote(tag)
    stage.now()
    yield
    stage.rollback()


@contextmanager
def _bad(stage: Stage) -> Iterator[None]:
    tag = stage.worse()
    stage.now()
    stage.promote(tag, force=True)
    yield
    stage.rollback()


@contextmanager
def _stuck(stage: Stage) -> Iterator[None]:
    # The server waits for the process in which the release is tried: the one before keeps serving.
    tag = stage.variant("endless", graphs.endless)
    stage.now()
    stage.promote(tag)
    yield
    house.vigil(stage.house, "rollback", "--model", house.MODEL, "--why", "drill")
    kill([*stage.processes("serving.rehearsal")])


@contextmanager
def _unloadable(stage: Stage) -> Iterator[None]:
    tag = stage.variant("unloadable", lambda _: BROKEN)
    stage.now()
    stage.promote(tag)
    yield
    stage.rollback()


FAULTS = (
    Fault(
        "endless-run", "a quick release that never ends on some rows, which come", "vigil rollback",
        _endless, "VigilErrorBurn", "critical", ("VigilLatencyBurn", *CROWDED), spoils=True,
    ),
    Fault(
        "hung-model", f"a release that takes {RUN_S * 1000:g} ms and never ends on some rows, which come",
        "vigil rollback", _hung, "VigilErrorBurn", "critical", ("VigilLatencyBurn", *CROWDED), spoils=True,
    ),
    Fault(
        "error-burst", "a release that fails on some rows, which come", "vigil rollback",
        _errors, "VigilErrorBurn", "critical",
    ),
    Fault(
        "slow-model", f"a release of which a run takes {SLOW_S} s", "vigil rollback",
        _slow, "VigilLatencyBurn", "critical",
        ("VigilErrorBurn", "VigilWrongVersionServed", *CROWDED), watch_s=90,
    ),
    Fault(
        "bad-model", "a worse release, trained on wrong labels, promoted with --force", "vigil rollback",
        _bad, "VigilQualityUnderFloor", "critical",
        (
            "VigilQualitySliceUnderFloor", "VigilQualityDeclined", "VigilQualityEstimateUnderFloor", "VigilDataDrift",
            "VigilPredictionsCollapsed",
        ),
    ),
    Fault(
        "wrong-version", "a release that never answers its trial is promoted: the one before keeps serving",
        "vigil rollback, and the trial is ended", _stuck, "VigilWrongVersionServed", "critical",
        ("VigilModelLoadFailing",), spoils=True,
    ),
    Fault(
        "load-failure", "a release whose graph cannot be read is promoted", "vigil rollback",
        _unloadable, "VigilModelLoadFailing", "warning",
        ("VigilWrongVersionServed",), spoils=True,
    ),
)  # fmt: skip
