"""The one command line. stdout is the result (text, or one JSON object with --json); stderr is progress.

Each verb imports what it needs when it runs, so that `vigil --help` answers at once.
"""

import argparse
import errno
import json
import math
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from drill import verbs as drill_verbs
from monitoring.log import log_verbs
from monitoring.reports import report_verbs
from oncall import verbs as oncall_verbs
from registry import logs, share_verbs, verbs
from registry.command_line import Parser
from registry.errors import ConfigError, DataError, StackError, UserError
from serving import key_verbs, tls

if TYPE_CHECKING:
    from training.task import Order

HERE = Path(__file__).resolve().parent
# What a file or folder is that somebody named or owns, and no bug of ours.
PLACES_OF_THE_USER = frozenset(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
)
NOT_IN_A_BENTO = ("demo", "drill", "grafana", "oncall", "training")


def init(options: argparse.Namespace) -> int:
    """Look at your data and write a commented TOML file that trains at once."""
    from training.begin import begin

    begun = begin.write(options.name, Path(options.source), options.target)
    print(begin.as_json(begun) if options.json else begin.as_text(begun))
    return 0


def train(options: argparse.Namespace) -> int:
    """Train the model a TOML file describes, export it, verify it and publish the release."""
    # Before PyTorch is loaded: a thread that spins while it waits takes the core that the other one needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from training import outcome, run
    from training.fit import distributed

    order = _order(options)
    if options.find_rate:
        from training.fit import find_rate

        found, picture = find_rate.find(order, _progress)
        print(find_rate.as_json(found) if options.json else find_rate.as_text(found, picture))
        return 0
    if distributed.rank():
        return run.assist(order)
    done = run.carry_out(order, _progress)
    print(outcome.as_json(done) if options.json else outcome.as_text(done))
    return 0


def explore(options: argparse.Namespace) -> int:
    """Look at the data a TOML file describes: leaks, copies, drift, doubtful labels; one HTML page and JSON."""
    from training import config
    from training.explore import write as explored

    overrides = config.overrides(options.data, options.set)
    done = explored.write(Path(options.config), options.out, overrides, _progress)
    print(json.dumps(done.facts, allow_nan=False) if options.json else explored.as_text(done))
    return 0


def crossval(options: argparse.Namespace) -> int:
    """Train the model k times, each row held out once; print the spread of every metric."""
    from training import crossval as folded

    found = folded.crossval(_order(options), options.folds, _progress)
    print(folded.as_json(found) if options.json else folded.as_text(found))
    return 0


def search(options: argparse.Namespace) -> int:
    """Try hyper-parameters, judged by validation rows alone, and write the best ones as NAME.best.toml."""
    from training import search as searched

    found = searched.search(_order(options), options.trials, _progress)
    print(searched.as_json(found) if options.json else searched.as_text(found))
    return 0


def serve(options: argparse.Namespace) -> int:
    """Serve the champion with `bentoml serve`; runs until it is stopped."""
    from serving import exposure

    if options.model:
        os.environ["VIGIL_MODELS"] = options.model
    # The service runs in another folder.
    for name in ("BENTOML_HOME", "VIGIL_KEYS", "VIGIL_LOG", "VIGIL_RECORD_POLICY", "VIGIL_RECORD_KEY_FILE",
                 "VIGIL_REQUIRE_SIGNATURE"):  # fmt: skip
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())
    encrypted = tls.arguments(options.certfile, options.keyfile, options.client_ca)
    exposure.demand(os.environ)  # here it is one line and status 2
    exposure.demand_models([name.strip() for name in options.model.split(",") if name.strip()])
    _demand_free_port(options.host, options.port)
    bentoml = [sys.executable, "-m", "bentoml", "serve", "service:Vigil", "--working-dir", str(HERE)]
    os.execv(sys.executable, [*bentoml, "--host", options.host, "--port", str(options.port), *encrypted])


def build(options: argparse.Namespace) -> int:
    """Build a Bento that carries one release (without a tag, the champion), or follows the champion of a store."""
    from registry import store

    if options.follow and options.tag:
        raise ConfigError(f"build: accepted is a tag or --follow, found {options.tag} and --follow")
    made = None if options.follow else store.open_release(options.tag or verbs.champion_of(options.model))
    said = {"model_tag": made.tag, "model_digest": made.digest} if made else {}
    bentofile = "bentofile.gpu.yaml" if options.gpu else "bentofile.yaml"
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag", "--bentofile", bentofile]
    command += [word for key, value in said.items() for word in ("--arg", f"{key}={value}")]
    # bentoml reads the file where it runs
    done = subprocess.run(command, check=False, cwd=HERE, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout, end="", file=sys.stderr)
        raise StackError("bentoml could not build it; what it said is above")
    bento = done.stdout.split("__tag__:")[-1].strip()
    size = sum(path.stat().st_size for path in store.bento(bento).rglob("*") if path.is_file())
    carried = sum(one.size_bytes for one in made.manifest.files.values()) if made else 0
    text = (
        f"{bento}: {size / 1e6:.2f} MB"
        + (f", and {made.tag}, {carried / 1e6:.2f} MB" if made else ", follows the champion of the store it runs on")
        + f"\n  serve it:       bentoml serve {bento} --host 127.0.0.1"
        + f"\n  make its image: make image IMAGE='--bento {bento}'"
    )
    return verbs.say(options, {"bento": bento, **said, "size_bytes": size}, text)


def watch(options: argparse.Namespace) -> int:
    """Run the monitor: quality, label coverage and its own health, on its own /metrics."""
    from monitoring.monitor import watch as monitor
    from monitoring.reports.shelf import Retention

    monitor.main(
        monitor.WatchSettings(
            log=verbs.log_of(options),
            host=options.host,
            port=options.port,
            interval_s=options.interval_s,
            window_s=options.window_s,
            min_rows=options.min_rows,
            state=options.state,
            reports=options.reports,
            retention=Retention(options.keep_reports, options.keep_days),
            runbooks=HERE / "grafana" / "runbooks",
        )
    )
    return 0


def verdict(options: argparse.Namespace) -> int:
    """Say what the labels tell of the challenger: promote, hold or reject; right however often it is asked."""
    from monitoring.judge import verdict as judged

    said = judged.judge(verbs.log_of(options), verbs.model_of(options.name))
    if options.promote:
        # Where releases are promoted there is no log to judge by.
        words = ["promote", f"{said.model}:{said.challenger}"]
        return share_verbs.change(options, said.model, words, lambda: judged.promote(said, options.why))
    print(judged.as_json(said) if options.json else judged.as_text(said))
    return 0


def labels(options: argparse.Namespace) -> int:
    """Add late labels from a file (CSV or JSON lines with id and label) to the log."""
    from monitoring.log import labels as truth

    log = verbs.log_of(options)
    if options.log and not log.exists():  # the usual one is made: labels may come before the first row
        raise DataError(f"{log}: there is no prediction log; name the one of the service with --log")
    added = truth.add_file(log, Path(options.file))
    text = f"{added.accepted} labels written, {added.unknown} of them for an id that is not in the log (yet)"
    return verbs.say(options, {"accepted": added.accepted, "unknown": added.unknown}, text)


def demo(options: argparse.Namespace) -> int:
    """Run the whole house on real data: train, serve, drift, alert, bad release, rollback."""
    from demo import story

    return story.run(Path(options.out), keep=options.keep)


Verb = Callable[[argparse.Namespace], int]


def parser() -> argparse.ArgumentParser:
    """Return the parser of every verb."""
    top = Parser(prog="vigil", description="Train, release, serve and watch a model.")
    every = top.add_subparsers(required=True, metavar="VERB")
    as_json, why, model, log = (_option(*a, **k) for a, k in _SHARED)

    def verb(run: Verb, *parents: Parser) -> Parser:
        text = (run.__doc__ or "").split("\n")[0]
        made = every.add_parser(run.__name__, help=text, description=text, parents=[as_json, *parents])
        made.set_defaults(run=run)
        return made

    _add_training(verb)
    verbs.add(verb, why, model)
    tls.add_options(_address(verb(serve, model), port=3000))
    key_verbs.add_to(every, as_json)
    built = verb(build, model)
    built.add_argument("tag", nargs="?", help="name:version; the champion if left out")
    built.add_argument("--follow", action="store_true", help="carry none: follow the champion of the store it runs on")
    built.add_argument("--gpu", action="store_true", help="for a machine with an NVIDIA GPU")
    _add_watch(verb(watch, log))
    judged = verb(verdict, log)
    judged.add_argument("name", nargs="?", default="", help="the model, if several have a champion")
    judged.add_argument(
        "--promote", action="store_true", help="make the challenger the champion if the verdict is to promote it"
    )
    judged.add_argument("--why", default="", help="with --promote: the reason, kept in the history beside the verdict")
    verb(labels, log).add_argument("file", help="CSV with columns id,label or JSON lines with id and label")
    report_verbs.add(verb, model, log)
    log_verbs.add_to(every, as_json, log)
    oncall_verbs.add(verb, model)
    drill_verbs.add(verb)
    shown = verb(demo)
    shown.add_argument("--keep", action="store_true", help="leave the stack running and print its addresses")
    shown.add_argument("--out", default="demo", help="where report.html and the files of the run go")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 2 something the user can fix, 130 Ctrl-C, 143 SIGTERM."""
    options = parser().parse_args(arguments)
    logs.set_up()
    run: Verb = options.run
    try:
        status = run(options)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"vigil: {error}", file=sys.stderr)
        return error.exit_status
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in NOT_IN_A_BENTO:
            raise
        print(f"vigil: a Bento holds no {error.name}; run this verb in the repository", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vigil: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _reader_is_gone():  # the pipe of a worker, say: that is no end that anyone wished for
            raise
        # `| head` has read enough; what is left to print goes nowhere, also at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in PLACES_OF_THE_USER:
            raise
        place = f"{error.filename}: cannot be used" if error.filename else "a file could not be written"
        print(
            f"vigil: {place}: {error.strerror}; make room or change its rights, or name another place", file=sys.stderr
        )
        return 2


def _reader_is_gone() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _add_training(verb: Callable[..., argparse.ArgumentParser]) -> None:
    begun = verb(init)
    begun.add_argument("name", help="of the release; the file is NAME.toml, here")
    begun.add_argument(
        "--from", dest="source", required=True, metavar="PATH", help="CSV, Parquet, NPZ, or image folder"
    )
    begun.add_argument("--target", default="", help="the column to predict; guessed if left out")
    for made in (trained := verb(train), folded := verb(crossval), searched := verb(search)):
        made.add_argument("--resume", action="store_true", help="go on where a stopped run of this file ended")
        made.add_argument("--run-folder", help="for checkpoints and logs; default runs/NAME OF THE FILE")
        _configured(made)
    trained.add_argument("--find-rate", action="store_true", help="only look for a peak of the learning rate")
    folded.add_argument("--folds", type=int, default=5, metavar="K")
    searched.add_argument("--trials", type=int, default=0, metavar="N", help="default: search.trials of the file")
    _configured(verb(explore)).add_argument(
        "--out", type=Path, help="the page; default runs/NAME OF THE FILE/explore.html"
    )


def _add_watch(made: argparse.ArgumentParser) -> None:
    watched = _address(made, port=9109)
    watched.add_argument("--interval-s", type=_positive, default=30.0)
    watched.add_argument("--window-s", type=_positive, default=86_400.0, help="how far back quality looks")
    watched.add_argument("--min-rows", type=int, default=200, help="fewest labelled rows to judge on")
    watched.add_argument(
        "--state", type=Path, help="where its counts are kept; default: beside the log, on a local disk"
    )
    report_verbs.add_folder(watched)
    watched.add_argument("--keep-reports", type=int, default=60, metavar="N", help="of a model, the newest")
    watched.add_argument("--keep-days", type=float, default=90.0, help="no report is kept longer")


_SHARED = (
    (("--json",), {"action": "store_true", "help": "print one JSON object"}),
    (("--why",), {"required": True, "help": "the reason, kept in the history"}),
    (("--model",), {"default": "", "help": "the model; may be left out when only one has a champion"}),
    (("--log",), {"default": "", "help": "the prediction log; default: log.sqlite beside the store"}),
)


def _option(*names: str, **settings: object) -> Parser:
    made = Parser(add_help=False)
    made.add_argument(*names, **settings)  # type: ignore[arg-type]
    return made


def _configured(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    verb.add_argument("config", help="a TOML file, for example examples/digits.toml")
    verb.add_argument("--data", default="", help="the file or folder to read, instead of data.path")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="instead of the file's value")
    return verb


def _order(options: argparse.Namespace) -> "Order":
    from training import config, task

    folder = Path(options.run_folder) if options.run_folder else None
    return task.Order(Path(options.config), folder, options.resume, config.overrides(options.data, options.set))


def _address(verb: argparse.ArgumentParser, port: int) -> argparse.ArgumentParser:
    verb.add_argument("--host", default="127.0.0.1")
    verb.add_argument("--port", type=_port, default=port)
    return verb


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        raise argparse.ArgumentTypeError(f"accepted are 1 to 65535, found '{text}'")
    return int(text)


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"accepted is a number above 0, found '{text}'")
    return number


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _demand_free_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(f"{host}:{port}: {error.strerror}; stop what listens there or choose --port") from error


if __name__ == "__main__":
    sys.exit(main())
