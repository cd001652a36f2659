"""The rules and `monitoring.shift.drift` agree on random counters: empty bins, resets, replicas, broken values."""

from dataclasses import replace

import numpy as np
import pytest
import yaml

from grafana import drift_cases, rules
from grafana.cases import series
from grafana.profile import PRODUCTION
from grafana.serving_cases import info
from monitoring.shift import drift, missing
from monitoring.shift.reference import Reference
from monitoring.shift.signals import BINS, Bins

HOURS, REPLICAS = 170, 2
NAMES = ("s0", "s1", "s2", "predicted_class")
SIGNALS = len(NAMES)
WINDOWS = {"short": 1, "medium": 24, "long": 168}
HOURLY = replace(PRODUCTION, drift_evaluation_s=3600)  # as often as promtool reads these counters
PLACE = drift_cases.RELEASE


def some_reference(generator):
    """Return a reference: even bins, bins that it never saw, rows outside its range, and classes."""
    shares, far, outside = [], [], []
    for s in range(SIGNALS):
        used = int(generator.integers(4, BINS - 1))
        row = generator.integers(1, 100, used).astype(float)
        row[generator.random(used) < (0.3 if s == 1 else 0)] = 0
        row[1] = max(row[1], 1)
        if s == 2:
            row[[0, -1]] = 0
        thousandths = np.floor(row / row.sum() * 1000)  # they print exactly
        thousandths[1] += 1000 - thousandths.sum()
        shares.append(tuple((thousandths / 1000).tolist()))
        far.append((0, used - 1) if s == 2 else ())
        outside.append(0.02 if s == 2 else 0.0)
    bins = tuple(Bins(name, 0.0, 1.0, tuple(range(1, len(row)))) for name, row in zip(NAMES, shares, strict=True))
    return Reference(
        rows=int(generator.integers(300, 5000)), bins=bins, shares=tuple(shares), psi_floor=0.02, min_rows=100,
        z_thresholds={"short": 5.0, "medium": 4.5, "long": 4.0}, far=tuple(far), outside=tuple(outside),
        slopes=tuple(generator.integers(0, 90, SIGNALS).astype(float).tolist()),
        classes=tuple(f"c{k}" for k in range(len(shares[-1]))),
        missing_thresholds={"short": 4.2, "medium": 3.6, "long": 3.1},
    )  # fmt: skip


def some_traffic(generator, made, restless):
    """Return rows by hour, replica, signal and bin; later ones are moved, and of restless traffic every hour is."""
    table = np.zeros((HOURS, REPLICAS, SIGNALS, BINS))
    for s, shares in enumerate(made.shares):
        usual = np.array(shares) + (np.array([0.01] + [0] * (len(shares) - 1)) if s == 2 else 0)
        for hour in range(HOURS):
            odd = generator.dirichlet(np.ones(len(shares))) if hour > 150 and s == 0 else usual.copy()
            odd[0] += 0.3 * (hour > 150 and s == 2)  # outside its range
            odd[1] *= 0.02 if hour > 150 and s == 3 else 1  # a class that stays away
            odd = generator.dirichlet(20 * usual + 0.01) if restless else odd / odd.sum()
            table[hour, :, s, : len(shares)] = generator.multinomial(
                generator.integers(0, 90), odd / odd.sum(), REPLICAS
            )
    return table


def printed(generator, table):
    """Return the counters as a scrape reads them each hour, (hours + 1, ...): replicas start again now and then."""
    restarts = generator.random((HOURS, REPLICAS)) < 0.03
    found = np.zeros((HOURS + 1, *table.shape[1:]))
    for hour in range(HOURS):
        found[hour + 1] = np.where(restarts[hour][:, None, None], 0, found[hour]) + table[hour]
    assert restarts.any()
    return found


def seen(counters):
    """Return the rows that Prometheus sees in each hour: a lower counter has started again at 0."""
    before, after = counters[:-1], counters[1:]
    return np.where(after < before, after, after - before).sum(axis=1)


def input_series(made, counters):
    """Return what is scraped."""
    told = info(f"1x{HOURS}") | series("vigil_drift_psi_threshold", f"{made.psi_floor}x{HOURS}", **PLACE)
    told |= series("vigil_drift_min_rows", f"{made.min_rows}x{HOURS}", **PLACE)
    for window, z in made.z_thresholds.items():
        told |= series("vigil_drift_z_threshold", f"{z}x{HOURS}", **PLACE, window=window)
        limit = made.missing_thresholds[window]
        told |= series("vigil_missing_class_z_threshold", f"{limit}x{HOURS}", **PLACE, window=window)
    for replica in range(REPLICAS):
        place = {**PLACE, "instance": f"r{replica}"}
        told |= series("vigil_reference_rows", f"{made.rows}x{HOURS}", **place)
        for s, shares in enumerate(made.shares):
            signal = {**place, "signal": NAMES[s]}
            told |= series("vigil_drift_z_slope", f"{made.slopes[s]}x{HOURS}", **signal)
            if made.far[s]:
                told |= series("vigil_reference_outside_share", f"{made.outside[s]}x{HOURS}", **signal)
            for b, share in enumerate(shares):
                counted = " ".join(f"{n:.0f}" for n in counters[:, replica, s, b])
                told |= series("vigil_signal_bin_total", counted, **signal, bin=f"{b:02d}")
                if NAMES[s] == "predicted_class":
                    held = {"bin": f"{b:02d}", "class_": made.classes[b]}
                    told |= series("vigil_signal_bin_info", f"1x{HOURS}", **signal, **held)
                if b not in made.far[s]:
                    told |= series("vigil_reference_share", f"{share!r}x{HOURS}", **signal, bin=f"{b:02d}")
    return [{"series": name, "values": values} for name, values in told.items()]


def expected(made, rows):
    """Return what each query must give, by query, from rows (hours, signals, bins)."""
    # The first of the pairs that a week holds ends at hour 2.
    hourly = [drift.Window(counts, None, int(counts[0].sum())) for counts in rows]
    calm = drift.unrest(made, hourly)
    told = {}
    for window, length in WINDOWS.items():
        counts = rows[HOURS - length :].sum(axis=0)
        seen_window = drift.Window(counts, None, int(counts.sum(axis=1).max()), calm)
        inside = np.where(made.compared(), counts, 0).sum(axis=1)
        z, psi = drift.scores(made, seen_window), drift.stability(made, seen_window)
        for s, name in enumerate(z):
            place = f'{{signal="{name}",window="{window}"}}'
            if not inside[s]:
                continue
            limit = made.z_thresholds[window] + made.slopes[s] / inside[s]
            told[f"model_signal:drift_rows{place}"] = inside[s]
            told[f"model_signal:drift_z{place}"] = z[name]
            told[f"model_signal:drift_psi{place}"] = psi[name]
            told[f"model_signal:drift_limit_restless{place}"] = calm.level[s] + calm.scale[s] * limit
        found = {finding.signal: finding.z for finding in drift.judge(made, seen_window, window)}
        told[f'count(model_signal:drifted_z{{window="{window}"}}) or vector(0)'] = len(found)
        told |= {f'model_signal:drifted_z{{signal="{n}",window="{window}"}}': value for n, value in found.items()}
    return told


@pytest.mark.parametrize(("seed", "restless"), [(0, False), (1, True), (2, False), (3, True)])
def test_the_rules_say_of_random_counters_what_numpy_says(run, tmp_path, seed, restless):
    generator = np.random.default_rng(seed)
    made = some_reference(generator)
    counters = printed(generator, some_traffic(generator, made, restless))
    told = expected(made, seen(counters))
    assert restless or all(any(word in query for query in told) for word in (drift.OUTSIDE, missing.GONE))
    samples = [
        {"expr": f"sum(abs(({query}) - {value!r}) <= bool {1e-9 * max(1, abs(value))!r})", "eval_time": f"{HOURS}h",
         "exp_samples": [{"labels": "{}", "value": 1}]}
        for query, value in ((query, float(value)) for query, value in told.items())
    ]  # fmt: skip
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules.rule_files(HOURLY)["drift"]))
    test = {"interval": "1h", "input_series": input_series(made, counters), "promql_expr_test": samples}
    content = {"rule_files": ["rules.yml"], "evaluation_interval": "1h", "tests": [test]}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(content))
    done = run("promtool", "test", "rules", tmp_path / "tests.yml")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(samples) >= 30
