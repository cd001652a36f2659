"""Faults of what is asked and of the truth that comes later, and the control: traffic that has no fault."""

import http.client
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from demo import house
from demo.traffic import Rows
from drill.fault import Fault
from drill.stage import Stage

BLANK_ROWS = 3000
ATTACKS = 10_000
FIRST = 300
SCRAPED_S = 3.0  # two scrapes
SLACK = 13  # series: one route with a code that was rare among the first requests, 12 buckets and a count
SERIES = 'sum(scrape_samples_post_metric_relabeling{job="vigil"})'


@contextmanager
def _drift(stage: Stage) -> Iterator[None]:
    _, new = house.rows()
    stage.now()
    stage.sender.only(new)
    yield
    stage.usual()
    stage.renew("again")


@contextmanager
def _control(stage: Stage) -> Iterator[None]:
    known, _ = house.rows()
    stage.now()
    stage.sender.only(known)
    yield
    stage.usual()


@contextmanager
def _collapse(stage: Stage) -> Iterator[None]:
    blank = np.zeros((BLANK_ROWS, *stage.known.x.shape[1:]), stage.known.x.dtype)
    stage.now()
    stage.sender.only(Rows(blank, [""] * BLANK_ROWS))
    yield
    stage.usual()
    stage.renew("once more")


@contextmanager
def _invalid(stage: Stage) -> Iterator[None]:
    wide = {"rows": np.zeros((1, 9, 9), int).tolist()}
    text = {"rows": [[["x"] * 8] * 8]}
    wrong = iter(lambda: random.choice((wide, text)), None)
    stage.now()
    with stage.meanwhile(lambda: stage.post(next(wrong)), 0.05, threads=2):
        yield


@contextmanager
def _labels_late(stage: Stage) -> Iterator[None]:
    stage.now()
    stage.sender.holds_labels = True
    yield
    stage.sender.holds_labels = False


@contextmanager
def _cardinality(stage: Stage) -> Iterator[None]:
    # Every route and code there is has its series once it was seen: these come first, and are not the fault.
    port = stage.house.ports["service"]
    _attack(port, FIRST)
    time.sleep(SCRAPED_S)
    before = stage.ask(SERIES)
    stage.now()
    statuses = _attack(port, ATTACKS)
    yield
    after = stage.ask(SERIES)
    stage.notes.append(
        f"{ATTACKS:,} requests with random paths, models, versions, ids and labels, answered {statuses}: "
        f"{before:.0f} series before, {after:.0f} after"
    )
    if not 0 < after <= before + SLACK:
        stage.problems.append(f"cardinality: {before:.0f} series became {after:.0f}")


def _attack(port: int, requests: int) -> dict[int, int]:
    # One connection, as a scanner has; a request that is not answered opens a new one.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    statuses: dict[int, int] = {}
    for _ in range(requests):
        word = random.randbytes(8).hex()
        path, body = _attempt(word)
        headers = {"Content-Type": "application/json", "X-Request-Id": word, "X-Tenant": word, "User-Agent": word}
        try:
            connection.request("GET" if body is None else "POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
        except (OSError, http.client.HTTPException):
            statuses[0] = statuses.get(0, 0) + 1
            connection.close()
    connection.close()
    return dict(sorted(statuses.items()))


def _attempt(word: str) -> tuple[str, str | None]:
    inputs = {"inputs": [{"name": word, "shape": [1, 1], "datatype": "FP32", "data": [0]}]}
    ways = (
        (f"/{word}", None),
        (f"/v1/{word}", None),
        (f"/v1/models/{word}/card", None),
        (f"/v2/models/{word}/versions/{word}/infer", json.dumps(inputs)),
        (f"/v1/predict?{word}={word}", None),
        ("/v1/labels", json.dumps({"labels": [{"id": word, "label": word}]})),
        ("/v1/labels", json.dumps({"labels": [{"id": word, "label": "3"}]})),
    )
    return random.choice(ways)


FAULTS = (
    Fault("control", "held-out rows of known writers, shuffled: no fault", "none needed", _control, watch_s=20),
    Fault(
        "drift", "real rows of writers the model never saw, in file order",
        "the known writers again, and a release promoted as after retraining",
        _drift, "VigilDataDrift", "warning", ("VigilQualityDeclined", "VigilQualitySliceUnderFloor"),
    ),
    Fault(
        "collapse", "blank images, as of a dead camera", "the known writers again, and a release promoted",
        _collapse, "VigilPredictionsCollapsed", "critical", ("VigilDataDrift", "VigilQualityEstimateUnderFloor"),
    ),
    Fault(
        "invalid-flood", "most requests have a wrong shape or text for numbers", "they stop",
        _invalid, "VigilInvalidInputs", "critical",
    ),
    Fault(
        "labels-late", "the truth stops arriving", "it arrives again",
        _labels_late, "VigilLabelsLate", "warning", watch_s=120,
    ),
    Fault(
        "cardinality", f"{ATTACKS:,} random paths, models, versions, ids and labels: series must not grow",
        "none needed", _cardinality, watch_s=8,
    ),
)  # fmt: skip
