"""What comes to a log, in any order, and what a plain reading of all of it says: the oracle of the monitor."""

import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from monitoring.log import logfile
from monitoring.monitor import state

BUCKET_S = 10.0
LATE_S = 50.0


@dataclass
class Truth:
    """What the state must say; buckets: by (model, version, start in seconds)."""

    rows: Counter = field(default_factory=Counter)
    labelled: Counter = field(default_factory=Counter)
    right: Counter = field(default_factory=Counter)
    confusion: dict = field(default_factory=lambda: defaultdict(Counter))
    delays: dict = field(default_factory=lambda: defaultdict(list))
    facts: Counter = field(default_factory=Counter)


def answer(connection, ident, time_s=10.0, version="v", predicted="a", model="m"):
    """Put one answer on the log, as the recorder does."""
    blob = np.ones(1 if predicted[0].isdigit() else 2, dtype=np.float32).tobytes()
    with connection:
        connection.execute(logfile.PREDICTION, (ident, time_s, model, version, predicted, blob, blob))


def label(connection, ident, text, time_s=20.0):
    with connection:
        connection.execute(logfile.LABEL, (ident, time_s, text))


def in_memory():
    connection = sqlite3.connect(":memory:")
    connection.executescript(logfile.SCHEMA)
    return connection


def truth(connection, late_s=LATE_S, classes=()):
    """Return what the whole log says, read row by row; classes: of the release, () if it is not known."""
    found, said = Truth(), defaultdict(list)
    answered = {
        row[0]: row for row in connection.execute("SELECT id, time_s, model, version, predicted FROM predictions")
    }
    for ident, text, time_s in connection.execute("SELECT id, label, time_s FROM labels ORDER BY seq"):
        said[ident].append((text, time_s))
        found.facts["unknown"] += ident not in answered
    for ident, time_s, model, version, predicted in answered.values():
        place = (model, version, time_s // BUCKET_S * BUCKET_S)
        found.rows[place] += 1
        if ident in said:
            text, label_s = said[ident][-1]
            found.labelled[place] += 1
            found.right[place] += text == predicted
            if classes:
                found.confusion[place][text if text in classes else "", predicted] += 1
            found.delays[model].append(max(0.0, label_s - time_s))
            found.facts["late"] += label_s - time_s > late_s
    for texts in said.values():
        kinds = len({text for text, _ in texts})
        found.facts["duplicate"] += len(texts) - kinds
        found.facts["conflict"] += kinds - 1
    return found


def kept(path, model="m"):
    """Return the buckets of a state file by (model, version, start in seconds), and its facts."""
    with closing(state.connect(path)) as connection:
        buckets = {(model, one.version, one.start_s): one for one in state.aggregates(connection, model, -1e9)}
        return buckets, state.facts(connection)


def assert_says(found, buckets, facts):
    """Hold all that is kept against the oracle."""
    for name in ("unknown", "duplicate", "conflict", "late"):
        assert facts.get(name, 0) == found.facts[name], name
    assert {place: one.rows for place, one in buckets.items()} == found.rows
    for place, one in buckets.items():
        assert (one.labelled, one.judged, one.right) == (found.labelled[place],) * 2 + (found.right[place],)
        assert one.confusion == found.confusion[place]
