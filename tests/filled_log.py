"""A log with rows of a real release, as the recorder writes it."""

import numpy as np
from tiny_release import rows_of, run

from monitoring.log import logfile
from monitoring.log.recorder import Records
from registry.release import MODEL


def answered(release, count, seed=1):
    """Return rows of a release and what it answers, (n, *shape) and (n, outputs)."""
    rows = rows_of(release.manifest.input, count, seed)
    return rows, run(release.read(MODEL), rows, release.manifest.output)


def fill(log, release, ids, time_s=1000.0, redaction=None, seed=1, step_s=1.0):
    """Write a row for each of `ids` to the log, `step_s` apart; return the rows and the answers."""
    rows, outputs = answered(release, len(ids), seed)
    classes = release.manifest.classes
    predicted = (
        [classes[k] for k in release.manifest.decide(outputs)] if classes else [repr(float(v[0])) for v in outputs]
    )
    connection = logfile.connect(log)
    with connection:
        for i, ident in enumerate(ids):
            part = slice(i, i + 1)
            said = (
                release.name,
                release.version,
                time_s + step_s * i,
                [ident],
                predicted[part],
                outputs[part],
                rows[part],
            )
            logfile.put(connection, Records(*said, redaction), [ident])
    connection.close()
    return rows, outputs


def label(log, pairs, time_s=2000.0):
    """Write labels to the log."""
    connection = logfile.connect(log)
    with connection:
        connection.executemany(logfile.LABEL, [(ident, time_s, said) for ident, said in pairs])
    connection.close()


def shadow(log, ids, time_s=1000.0, step_s=1.0):
    """Write the answer of a challenger beside each row that `fill` wrote."""
    connection = logfile.connect(log)
    with connection:
        for i, ident in enumerate(ids):
            model = connection.execute("SELECT model FROM predictions WHERE id = ?", (ident,)).fetchone()[0]
            answer = np.full((1, 2), 0.5, dtype=np.float32)
            said = logfile.Shadowed(model, "w", time_s + step_s * i, [ident], ["b"], answer)
            assert logfile.put(connection, said, [ident]) == 1
    connection.close()
    return


def count(log, table):
    """Return the rows of a table of the log."""
    connection = logfile.connect(log)
    try:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    finally:
        connection.close()
