"""What `make demo` does, in the order it happens; each step fails loudly if it does not.

Prometheus' windows and the alerts' patience are those of the profile DEMO in grafana/profile.py;
rules, thresholds and programs are those of production.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo import house, page, stack
from demo.house import MODEL, House
from demo.stack import wait_for
from demo.traffic import Sender
from registry import aliases, durable
from registry.errors import StackError

RATE_S = 10.0
LABEL_DELAY_S = 3.0
QUIET_S = 8.0  # after the control traffic: twice what an alert needs from its first row to the webhook


@dataclass
class Timeline:
    """What happened when, in seconds since the start; printed as it grows."""

    started_s: float = field(default_factory=time.time)
    events: list[tuple[float, str]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)

    def say(self, what: str, mark: str = "") -> None:
        """Add one line; `mark` names it in the picture."""
        at = round(time.time() - self.started_s, 1)
        self.events.append((at, what))
        if mark:
            self.marks.append((at, mark))
        print(f"{at:7.1f} s  {what}", flush=True)


@dataclass
class Demo:
    """Everything one run of the demo holds; `skipped` says what this machine could not do."""

    house: House
    timeline: Timeline
    skipped: list[str]
    result: dict[str, Any] = field(default_factory=dict)
    drift_s: float = 0.0

    @property
    def alerting(self) -> bool:
        return not self.skipped


def run(out: Path, keep: bool) -> int:
    """Run the demo into `out`; returns 0 if all of it happened, 1 if not. See the module's first lines."""
    out = out.resolve()
    demo = _prepare(out / "out")
    sender: Sender | None = None
    try:
        good, worse = _train(demo)
        _start(demo)
        sender = Sender(demo.house.ports["service"], RATE_S, LABEL_DELAY_S)
        _control(demo, sender)
        _drift(demo, sender)
        _bad_release(demo, worse)
        _rollback(demo, good)
        demo.result |= {"ok": not sender.lost, "lost_requests": len(sender.lost), "requests": sender.sent}
        page.write(demo.house.folder, out / "report.html", _facts(demo, good, worse))
        demo.timeline.say(f"wrote {os.path.relpath(out / 'report.html')}")
    except StackError as error:
        demo.timeline.say(f"FAILED: {error}")
        demo.result |= {"ok": False, "error": str(error)}
    finally:
        status = _finish(demo, sender, keep)
    return status


def _prepare(folder: Path) -> Demo:
    missing = stack.missing_programs()
    demo = Demo(house.make(folder), Timeline(), [])
    if missing:
        cure = f"sudo apt-get install {' '.join(missing)}"
        demo.skipped.append(f"alerts: {', '.join(missing)} not installed; install with: {cure}")
        demo.timeline.say(f"SKIPPING the alert part: {', '.join(missing)} not found; {cure}")
    return demo


def _train(demo: Demo) -> tuple[str, str]:
    tags = []
    for name, what in (("digits", "the release"), ("digits_worse", "a deliberately worse release")):
        demo.timeline.say(f"training {what}: vigil train examples/{name}.toml")
        outcome = house.train(demo.house, name)
        tags.append(outcome["tag"])
        ours, linear = (m["accuracy"]["value"] for m in (outcome["metrics"], outcome["baselines"]["linear"]))
        demo.timeline.say(
            f"published {outcome['tag']}: accuracy {ours:.3f} on held-out rows (linear baseline {linear:.3f}), "
            f"ONNX within {outcome['parity']['max_difference']:.1e} of PyTorch"
        )
    house.vigil(demo.house, "promote", tags[0], "--why", "first release of the demo")
    demo.timeline.say(f"promoted {tags[0]}")
    return tags[0], tags[1]


def _start(demo: Demo) -> None:
    house.start_service(demo.house)
    house.start_monitor(demo.house)
    demo.timeline.say(f"serving on http://127.0.0.1:{demo.house.ports['service']} (bentoml serve), monitor beside it")
    if demo.alerting:
        since = time.time()
        notice = house.start_alerting(demo.house)
        demo.timeline.say(f"alerting is alive: Watchdog reached the webhook after {notice.time_s - since:.1f} s")


def _control(demo: Demo, sender: Sender) -> None:
    known, _ = house.rows()
    since = time.time()
    demo.timeline.say(f"control: {len(known.truth)} held-out rows of the known writers, shuffled", "control")
    sender.send(known)
    wait_for("the control traffic leaving", lambda: sender.idle() or None, 120)
    end = time.time() + QUIET_S
    wait_for("the quiet after it", lambda: time.time() > end or None, QUIET_S + 5)
    demo.house.stack.check()
    raised = sorted({n.name for n in demo.house.receiver.notices if n.time_s >= since and n.name != "Watchdog"})
    demo.result["control_alerts"] = len(raised) if demo.alerting else None
    if raised:
        raise StackError(f"control: traffic without drift raised {', '.join(raised)}")
    demo.timeline.say("control is over" + (": no alert fired" if demo.alerting else ""))


def _drift(demo: Demo, sender: Sender) -> None:
    _, new = house.rows()
    since = demo.drift_s = time.time()
    demo.timeline.say(f"real drift: {len(new.truth)} rows of writers the model never saw, in file order", "new writers")
    sender.send(new)
    if demo.alerting:
        notice = wait_for("VigilDataDrift", lambda: demo.house.receiver.find("VigilDataDrift", "firing", since), 90)
        demo.result["drift_alert_s"] = round(notice.time_s - since, 1)
        took = f"{notice.time_s - since:.1f} s after the first new row"
        demo.timeline.say(f"VigilDataDrift reached the webhook {took}: {notice.description}", "drift alert")
    else:
        wait_for("100 rows of the new writers", lambda: sender.sent > 250 or None, 60)
    quality = demo.house.receiver.find("VigilQualityUnderFloor", "firing", since)
    if quality is not None:
        raise StackError("drift: VigilQualityUnderFloor fired although the good release was live")


def _bad_release(demo: Demo, worse: str) -> None:
    refused = house.vigil(demo.house, "promote", worse, "--why", "it trains faster", expect=2)
    demo.timeline.say(f"the gate refuses the worse release: {refused.stderr.strip().splitlines()[-1]}")
    house.vigil(demo.house, "promote", worse, "--why", "demo: a bad release goes live", "--force")
    since = time.time()
    took = house.live(demo.house, worse, since)
    demo.timeline.say(f"promoted {worse} with --force; live {took:.2f} s later", "bad release")
    if demo.alerting:
        name = "VigilQualityUnderFloor"
        notice = wait_for(name, lambda: demo.house.receiver.find(name, "firing", since), 60)
        demo.result["quality_alert_s"] = round(notice.time_s - since, 1)
        demo.timeline.say(
            f"{name} reached the webhook {notice.time_s - since:.1f} s later: {notice.description}", "quality alert"
        )
    else:
        wait_for("50 labels for the worse release", lambda: time.time() > since + 12 or None, 30)


def _rollback(demo: Demo, good: str) -> None:
    since = time.time()
    house.vigil(demo.house, "rollback", "--model", MODEL, "--why", "quality fell under its floor")
    took = house.live(demo.house, good, since)
    demo.result["rollback_s"] = round(took, 2)
    demo.timeline.say(f"vigil rollback: {good} answers again {took:.2f} s after the command was typed", "rollback")
    if demo.alerting:
        name = "VigilQualityUnderFloor"
        notice = wait_for(f"{name} clearing", lambda: demo.house.receiver.find(name, "resolved", since), 60)
        demo.result["quality_clear_s"] = round(notice.time_s - since, 1)
        demo.timeline.say(f"{name} cleared {notice.time_s - since:.1f} s after the rollback", "clear")


def _facts(demo: Demo, good: str, worse: str) -> page.Facts:
    history = [vars(change) for change in aliases.read(MODEL).history]
    notices = [vars(notice) for notice in demo.house.receiver.notices]
    port = demo.house.ports["prometheus"] if demo.alerting else None
    line = demo.timeline
    tags = (good, worse)
    return page.Facts(
        line.started_s, demo.drift_s, line.events, line.marks, notices, history, tags, port, dict(demo.result)
    )


def _finish(demo: Demo, sender: Sender | None, keep: bool) -> int:
    wall = round(time.time() - demo.timeline.started_s, 1)
    result = demo.result | {"wall_s": wall, "skipped": demo.skipped}
    durable.write_atomically(demo.house.folder / "result.json", json.dumps(result).encode())
    if sender is not None and sender.lost:
        print("\n".join(sender.lost[:5]), file=sys.stderr)
    try:
        if keep and result.get("ok"):
            print(json.dumps(result), flush=True)
            _stay(demo)
    finally:
        if sender is not None:
            sender.close()
        demo.house.close()
    if not (keep and result.get("ok")):
        print(json.dumps(result), flush=True)
    return 0 if result.get("ok") else 1


def _stay(demo: Demo) -> None:
    for name, port in demo.house.ports.items():
        if name in demo.house.stack.processes:
            print(f"{name:13} http://127.0.0.1:{port}")
    print(
        f"store         BENTOML_HOME={demo.house.stack.environment['BENTOML_HOME']}\nCtrl-C stops everything",
        flush=True,
    )
    try:
        while True:
            demo.house.stack.check()
            time.sleep(1)
    except KeyboardInterrupt:
        print()
