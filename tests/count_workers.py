"""Worker processes that count together in a folder; run as a script: count_workers.py WHAT FOLDER [NUMBER]."""

import json
import os
import random
import resource
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from monitoring.counting.counts import Counts


def start(work):
    """Return (pid, pipe) of a forked child that runs `work(tell)`; tell writes one byte per count."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            work(lambda: os.write(writing, b"."))
        finally:
            os._exit(0)
    os.close(writing)
    return pid, reading


def end(pid, reading, after=0):
    """Kill a child once it has told of `after` counts; return how many it told of in all."""
    told = 0
    while told < after and (said := os.read(reading, 4096)):
        told += len(said)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while said := os.read(reading, 65536):
        told += len(said)
    os.close(reading)
    return told


def hammer(folder):
    """Count in every way at once; a count is told of when all of them are made."""

    def work(tell):
        counts = Counts(folder)
        counter, histogram = counts.counter("c_total", "", "l"), counts.histogram("h", "", (1.0, 2.0))
        array = counts.array("a", ("x",), 100)
        for i in range(10**9):
            array += 1
            counter.labels(str(i % 97)).inc()
            histogram.observe(i % 3)
            tell()

    return work


def totals(counts):
    """Return the sums of what `hammer` counts in three ways."""
    samples = [s for family in counts.collect() for s in family.samples]
    histogram = next((s.value for s in samples if s.name == "h_count"), 0)
    array = counts.array_totals("a")[("x",)]
    return [sum(s.value for s in samples if s.name == "c_total"), histogram, *sorted({array.min(), array.max()})]


def scraper(folder):
    counts = Counts(folder)
    counts.counter("c_total", "", "l")
    counts.histogram("h", "", (1.0, 2.0))
    counts.array("a", ("x",), 100)
    return counts


def kill_at_random(folder, rounds):
    """Kill pairs of hammering workers, scraping in between; print told counts, deaths and what is scraped."""
    chance, counts, told, seen = random.Random(0), scraper(folder), 0, []
    for _ in range(rounds):
        pair = [start(hammer(folder)) for _ in range(2)]
        for pid, reading in pair:
            told += end(pid, reading, chance.randrange(200))
            seen.append(totals(counts)[0])
    print(json.dumps({"told": told, "deaths": 2 * rounds, "seen": seen, "totals": totals(counts)}))


def restart(folder, times):
    """Count once in each of many workers that are gone before anyone looks; print what lies there at the end."""
    counts = scraper(folder)

    def work(tell):
        mine = Counts(folder)
        mine.counter("c_total", "", "l").labels("x").inc()
        mine.gauge("g", "").set(1)
        tell()

    for _ in range(times):
        end(*start(work), after=1)
        if _ % 10 == 0:
            counts.collect()
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    print(json.dumps({"totals": totals(counts), "before": len(sizes), "left": sorted(os.listdir(folder))}))


def fill(folder, limit_bytes):
    """Count on where files may not grow beyond a limit; print what this process and another one see."""

    def work(tell):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        mine = Counts(folder)
        counter = mine.counter("c_total", "", "l")
        for i in range(40_000):
            counter.labels(str(i)).inc()
        if sum(s.value for family in mine.collect() for s in family.samples if s.name == "c_total") == 40_000:
            tell()
        signal.pause()

    pid, reading = start(work)
    own = len(os.read(reading, 1))
    others = totals(scraper(folder))[0]
    end(pid, reading)
    print(json.dumps({"own": own, "others": others}))


if __name__ == "__main__":
    verbs = {"kill": kill_at_random, "restart": restart, "fill": fill}
    verbs[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
