"""Cases for `drift_rules`, and a comparison of its PromQL with numpy."""

from collections.abc import Mapping

import numpy as np

from grafana.cases import SLOWLY, Case, Fire, Series, series
from grafana.joint_rules import JUDGED
from grafana.serving_cases import M, info
from grafana.statement import Statement

RELEASE = {**M, "version": "v1"}
EVEN = (0.25, 0.25, 0.25, 0.25)
ONE_BIN = (10, 0, 0, 0)
REFERENCE_ROWS = 1000
FEWEST = 100  # rows; ten rows a minute reach it in minute 10
SMOOTHING = 1e-4
OLD = info("1x90", stage="previous")
# Hours of early and of late traffic that each window holds at hour 168.
WINDOW_HOURS = (("short", (0, 1)), ("medium", (6, 18)), ("long", (150, 18)))


def cases() -> list[Case]:
    """Return every case of the drift alerts."""
    return [*_drift(), *_missing(), *_collapse()]


def scores(window: np.ndarray, shares: np.ndarray, reference_rows: int) -> tuple[float, float, float]:
    """Return PSI, chi-square and z of the counts of one signal, (bins,), against its reference shares."""
    n = window.sum()
    p = window / n
    psi = ((p - shares) * np.log((p + SMOOTHING) / (shares + SMOOTHING))).sum()
    pooled = (window + shares * reference_rows) / (n + reference_rows)
    held = pooled > 0
    terms = (p - shares)[held] ** 2 / pooled[held]
    chi2 = n * reference_rows / (n + reference_rows) * terms.sum()
    spread = 2 / (9 * (held.sum() - 1))
    z = ((chi2 / (held.sum() - 1)) ** (1 / 3) - (1 - spread)) / np.sqrt(spread)
    return float(psi), float(chi2), float(z)


def missing_score(counts: np.ndarray, shares: np.ndarray, reference_rows: int, place: int) -> float:
    """Return how surely the class of one bin is missing, from counts and reference shares (bins,)."""
    n, q = counts.sum(), shares[place]
    p = (counts[place] + 0.5) / n
    distance = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    ratio = 2 * n * reference_rows / (n + reference_rows) * distance
    return float(np.sqrt(ratio - 2 * np.log((shares > 0).sum())))


def oracle_test() -> Statement:
    """Return a promtool test that compares rows, PSI, chi-square and z of every window with numpy.

    Two replicas, a sample an hour, other traffic from hour 150 on; read at hour 168. The second signal has
    unused bins, the third a bin that the reference never saw.
    """
    generator = np.random.default_rng(3)
    inputs: Series = info("1x180")
    expected: list[str] = []
    for s, used in enumerate((16, 10, 9)):
        shares = np.zeros(16)
        shares[: used - (s == 2)] = _thousandths(generator, used - (s == 2))
        early, late = generator.integers(1, 60, (2, 2, 16))
        early[:, used:], late[:, used:] = 0, 0
        for replica in range(2):
            inputs |= _signal(f"s{s}", shares, _two_rates(early[replica], late[replica]), f"r{replica}")
        for window, hours in WINDOW_HOURS:
            rows = (early * hours[0] + late * hours[1]).sum(axis=0)
            expected += _expressions(f"s{s}", window, rows, shares)
    sums, expected_joint = _embedding(generator)
    inputs |= sums
    expected += expected_joint
    samples = [{"expr": expr, "eval_time": "168h", "exp_samples": [{"labels": "{}", "value": 1}]} for expr in expected]
    return {
        "name": "PromQL equals numpy",
        "interval": "1h",
        "input_series": _listed(inputs),
        "promql_expr_test": samples,
    }


def joint_scores(gap: np.ndarray, rows: float, reference_rows: int) -> tuple[float, float, float]:
    """Return size (the joint signal's PSI), T2 and z of the gaps between the means of components, (k,)."""
    k, m = len(gap), reference_rows * JUDGED
    size = (gap**2).sum() - k * (1 / rows + 1 / m)
    t2 = rows * m / (rows + m) * (gap**2).sum()
    root = np.cbrt(t2 * (m - k) / (k * (m - 1)))
    a, b = 2 / (9 * k), 2 / (9 * (m - k))
    z = (root * (1 - b) - (1 - a)) / np.sqrt(a + root**2 * b)
    return float(size), float(t2), float(z)


def _embedding(generator: np.random.Generator) -> tuple[Series, list[str]]:
    # Three components on two replicas; the second half of the last day is other traffic.
    inputs: Series = {}
    expected: list[str] = []
    early, late = generator.integers(300, 400, (2, 2, 3))
    rates = np.array([[40, 50], [60, 30]])  # rows an hour by replica, early and late
    means = np.array([7.5, 6.25, 8.0])
    for replica in range(2):
        place = {**RELEASE, "instance": f"r{replica}"}
        inputs |= series("vigil_embedding_rows_total", _two_rates(*rates[replica, :, None])[0], **place)
        for c, values in enumerate(_two_rates(early[replica], late[replica])):
            inputs |= series("vigil_embedding_sum_total", values, **place, component=f"{c:02d}")
            inputs |= series("vigil_embedding_reference_mean", f"{means[c]}x200", **place, component=f"{c:02d}")
    for window, hours in WINDOW_HOURS:
        rows = float((rates * hours).sum())
        gap = (early * hours[0] + late * hours[1]).sum(axis=0) / rows - means
        size, t2, z = joint_scores(gap, rows, REFERENCE_ROWS)
        told = {"rows": rows, "psi": size, "chi2": t2, "df": 3.0, "z": z}
        expected += _held_to("embedding", window, told)
    return inputs, expected


def _thousandths(generator: np.random.Generator, bins: int) -> np.ndarray:
    # Shares that add up to 1 and print exactly.
    cuts = np.sort(generator.choice(np.arange(1, 1000), bins - 1, replace=False))
    return np.diff(np.concatenate([[0], cuts, [1000]])) / 1000


def _two_rates(early: np.ndarray, late: np.ndarray) -> list[str]:
    return [f"0+{a}x150 {150 * a + b}+{b}x30" for a, b in zip(early, late, strict=True)]


def _expressions(signal: str, window: str, rows: np.ndarray, shares: np.ndarray) -> list[str]:
    psi, chi2, z = scores(rows, shares, REFERENCE_ROWS)
    held = int(((rows > 0) | (shares > 0)).sum())
    told = {"rows": float(rows.sum()), "psi": psi, "chi2": chi2, "df": held - 1.0, "z": z}
    return _held_to(signal, window, told)


def _held_to(signal: str, window: str, told: Mapping[str, float]) -> list[str]:
    # Prometheus adds up in another order: the last digits of a float64 may differ.
    place = f'signal="{signal}",window="{window}"'
    return [
        f"sum(abs(model_signal:drift_{name}{{{place}}} / {value!r} - 1) < bool 1e-9)" for name, value in told.items()
    ]


def _signal(name: str, shares: np.ndarray, counts: list[str], instance: str = "a:3000") -> Series:
    found: Series = series("vigil_reference_rows", f"{REFERENCE_ROWS}x1600", instance=instance, **RELEASE)
    found |= series("vigil_drift_z_slope", "0x1600", instance=instance, **RELEASE, signal=name)
    for b, (share, values) in enumerate(zip(shares, counts, strict=True)):
        labels = {**RELEASE, "instance": instance, "signal": name, "bin": f"{b:02d}"}
        found |= series("vigil_reference_share", f"{share:.3f}x1600", **labels)
        found |= series("vigil_signal_bin_total", values, **labels)
    return found


def _steady(name: str, each_minute: tuple[int, ...], shares: tuple[float, ...] = EVEN) -> Series:
    return _signal(name, np.array(shares), [f"0+{n}x90" for n in each_minute])


def _limits(z: float = 4.0, psi: float = 0.2) -> Series:
    found = series("vigil_drift_psi_threshold", f"{psi}x90", **RELEASE)
    found |= series("vigil_drift_min_rows", f"{FEWEST}x90", **RELEASE)
    for window in ("short", "medium", "long"):
        found |= series("vigil_drift_z_threshold", f"{z}x90", **RELEASE, window=window)
    return found


def _drift() -> list[Case]:
    name = "VigilDataDrift"
    usual = info("1x90") | _limits()
    shifts = {
        "brightness": (10, 0, 0, 0),
        "contrast": (8, 2, 0, 0),
        "edges": (7, 1, 1, 1),
        "width": (6, 2, 1, 1),
    }
    told = _told(shifts, minutes=10)
    four: Series = {}
    for signal, rates in shifts.items():
        four |= _steady(signal, rates)
    fire = Fire(10, labels=RELEASE, description=told)
    rolled_back = _limits() | info("1x29 stale") | info("_x30 1x50", "v1", stage="previous")
    small = _steady("brightness", (4000, 2000, 2000, 2000))
    return [
        Case(name, "four signals move, the worst three are named", usual | four, (fire,)),
        Case(name, "a rollback ends it at once", rolled_back | four, (fire,), clears=30),
        Case(name, "nothing moves", usual | _steady("brightness", (3, 3, 2, 2)), last=80, step=SLOWLY),
        Case(name, "sure, but small", usual | small, last=80, step=SLOWLY),
        Case(
            name,
            "large, but not sure",
            info("1x90") | _limits(z=30) | _steady("brightness", ONE_BIN),  # z is 15
            last=80,
            step=SLOWLY,
        ),
        Case(name, "too few rows", usual | _steady("brightness", (4, 0, 0, 0)), last=80, step=SLOWLY),
        Case(name, "a release that is not live", _limits() | OLD | four, last=80, step=SLOWLY),
    ]


def _missing() -> list[Case]:
    # Class d no longer comes; the limits of all else are out of reach.
    name, signal, rates = "VigilDataDrift", "predicted_class", (4, 3, 3, 0)
    usual = info("1x90") | _limits(z=60)
    for b, held in enumerate("abcd"):
        usual |= series("vigil_signal_bin_info", "1x90", **RELEASE, signal=signal, bin=f"{b:02d}", class_=held)
    limited = usual
    for window in ("short", "medium", "long"):
        limited = limited | series("vigil_missing_class_z_threshold", "4x90", **RELEASE, window=window)
    halved = (300, 290, 290, 120)
    gone, half = (
        Fire(minutes, labels=RELEASE, description=_told_missing(each, minutes))
        for each, minutes in ((rates, 10), (halved, 1))
    )
    rare = _steady(signal, rates, (0.4, 0.3, 0.298, 0.002))
    return [
        Case(name, "a class no longer comes, and is named", limited | _steady(signal, rates), (gone,)),
        Case(name, "a class lost half of its share", limited | _steady(signal, halved), (half,)),
        Case(name, "half of it, not surely", limited | _steady(signal, (3, 3, 3, 1)), last=10),
        Case(name, "a release that says nothing of missing classes", usual | _steady(signal, rates), last=20),
        Case(name, "a class lost over a fourth, surely", limited | _steady(signal, (2900, 2700, 2600, 1800)), last=4),
        Case(name, "a class so rare that it may stay away", limited | rare, last=20),
        Case(name, "too few rows to miss a class", limited | _steady(signal, (1, 0, 0, 0)), last=40),
        Case(name, "another signal misses a bin", limited | _steady("brightness", rates), last=20),
    ]


def _told_missing(rates: tuple[int, ...], minutes: int) -> str:
    z = missing_score(np.array(rates) * minutes, np.array(EVEN), REFERENCE_ROWS, 3)
    return f"1 signals of m v1 moved, surely and by much: class d missing (z {z:.1f})."


def _told(shifts: Mapping[str, tuple[int, ...]], minutes: int) -> str:
    z = {name: scores(np.array(rates) * minutes, np.array(EVEN), REFERENCE_ROWS)[2] for name, rates in shifts.items()}
    worst = sorted(z, key=lambda name: -z[name])[:3]
    named = " ".join(f"{name} (z {z[name]:.1f})" for name in worst)
    return f"{len(z)} signals of m v1 moved, surely and by much: {named}."


def _collapse() -> list[Case]:
    name = "VigilPredictionsCollapsed"
    signal = "predicted_class"
    usual = info("1x90") | _limits()
    again = _signal(signal, np.array(EVEN), ["0+10x14 140x60", *["0x14 0+10x60"] * 3])
    one_class = _steady(signal, ONE_BIN, (0.85, 0.05, 0.05, 0.05))
    return [
        Case(
            name,
            "one class only",
            usual | _steady(signal, ONE_BIN, (0.5, 0.3, 0.1, 0.1)),
            (Fire(10, labels=RELEASE, value="100%"),),
        ),
        Case(name, "nine in ten", usual | _steady(signal, (9, 1, 0, 0)), last=80, step=SLOWLY),
        Case(name, "a class that was always nearly alone", usual | one_class, last=80, step=SLOWLY),
        Case(name, "too few rows", usual | _steady(signal, (4, 0, 0, 0)), last=80, step=SLOWLY),
        Case(name, "another signal", usual | _steady("brightness", ONE_BIN), last=80, step=SLOWLY),
        Case(name, "a regression, which has no classes", usual | _steady("prediction", ONE_BIN), last=80, step=SLOWLY),
        Case(name, "a release that is not live", _limits() | OLD | _steady(signal, ONE_BIN)),
        Case(name, "other classes come again", usual | again, (Fire(10, labels=RELEASE, value="100%"),), clears=20),
    ]


def _listed(inputs: Series) -> list[dict[str, str]]:
    return [{"series": name, "values": values} for name, values in inputs.items()]
