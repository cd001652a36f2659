"""Recorded traffic: what a tiny release answered to rows, written to a prediction log at stated times."""

from contextlib import closing

import numpy as np

from monitoring.log import recorder
from serving.engine import Engine

T0_S = 1_790_000_040.0


def answers(release, rows):
    return Engine(release, ("cpu",), threads=1).run(rows)[0]


def said(release, outputs):
    """Return the classes, or the numbers, that were answered."""
    classes = release.manifest.classes
    return [classes[p.argmax()] if classes else repr(float(p[0])) for p in outputs]


def record(log, release, rows, time_s, kept=None, begin=0, outputs=None):
    """Write rows answered at times (n,) with the ids begin, begin + 1, ...; kept: what the log holds of the rows."""
    outputs = answers(release, rows) if outputs is None else outputs
    kept = rows if kept is None else kept
    with closing(recorder.connect(log)) as connection, connection:
        connection.executemany(
            recorder.PREDICTION,
            [
                (str(i), float(at), release.name, release.version, predicted, p.tobytes(), row.tobytes())
                for i, (at, predicted, p, row) in enumerate(
                    zip(time_s, said(release, outputs), outputs, kept, strict=True), start=begin
                )
            ],
        )
    return outputs


def label(log, labels):
    """Write (id, label, time) in this order."""
    with closing(recorder.connect(log)) as connection, connection:
        connection.executemany(
            "INSERT INTO labels(id, time_s, label) VALUES (?, ?, ?)", [(i, float(at), what) for i, what, at in labels]
        )


def times(count, hours, begin_s=T0_S):
    return begin_s + np.arange(count) * (hours * 3600 / count)
