"""The numbers of each epoch, sent on to TensorBoard and MLflow where they are installed."""

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from training.config import Config

log = logging.getLogger(__name__)

Follow = Callable[[dict[str, float]], None]
TENSORBOARD = "tensorboard"  # folder of event files in the run folder: `tensorboard --logdir runs`
MLFLOW_RUN = "mlflow_run_id"  # file in the run folder: a resumed run goes on in the same MLflow run


@contextmanager
def followers(config: Config, folder: Path, resume: bool) -> Iterator[Follow]:
    """Give a function that hands the entry of an epoch to everyone who follows the run in `folder`.

    TensorBoard follows if it is installed, MLflow if it is and MLFLOW_TRACKING_URI is set. One that
    fails is logged and left behind: training does not wait for a server.
    """
    with ExitStack() as stack:
        heard: dict[str, Follow] = {}
        if installed("tensorboard"):
            heard["tensorboard"] = stack.enter_context(tensorboard(folder, resume))
        if os.environ.get("MLFLOW_TRACKING_URI") and installed("mlflow"):
            heard["mlflow"] = stack.enter_context(mlflow(config, folder, resume))

        def tell(entry: dict[str, float]) -> None:
            for name, follow in list(heard.items()):
                try:
                    follow(entry)
                except Exception:  # a server, a disk: nothing of the run itself
                    log.warning("follower lost", extra={"follower": name}, exc_info=True)
                    del heard[name]

        yield tell


def installed(package: str) -> bool:
    """Return whether `package` can be imported."""
    return importlib.util.find_spec(package) is not None


@contextmanager
def tensorboard(folder: Path, resume: bool) -> Iterator[Follow]:
    """Give a function that writes an entry as TensorBoard events; a resumed epoch replaces the one before it."""
    place = folder / TENSORBOARD
    if not resume:
        shutil.rmtree(place, ignore_errors=True)
    writers: list[Any] = []

    def follow(entry: dict[str, float]) -> None:
        if not writers:
            from torch.utils.tensorboard import SummaryWriter

            writers.append(SummaryWriter(str(place), purge_step=int(entry["epoch"])))
        for name, value in _numbers(entry):
            writers[0].add_scalar(name, value, int(entry["epoch"]))
        writers[0].flush()

    try:
        yield follow
    finally:
        for writer in writers:
            writer.close()


@contextmanager
def mlflow(config: Config, folder: Path, resume: bool) -> Iterator[Follow]:
    """Give a function that logs an entry to MLflow: experiment `config.name`, every setting a parameter."""
    started: list[Any] = []
    try:
        yield lambda entry: _log_to_mlflow(entry, started, (config, folder, resume))
    except BaseException:
        _end(started, "KILLED")
        raise
    _end(started, "FINISHED")


def _log_to_mlflow(entry: dict[str, float], started: list[Any], run: tuple[Config, Path, bool]) -> None:
    import mlflow as client

    config, folder, resume = run
    known = folder / MLFLOW_RUN
    if not started:
        client.set_experiment(config.name)
        old = known.read_text() if resume and known.exists() else None
        started.append(client.start_run(run_id=old, run_name=None if old else folder.name))
        known.write_text(started[0].info.run_id)
        if old is None:
            client.log_params(_flat(config.as_dict()))
    client.log_metrics(dict(_numbers(entry)), step=int(entry["epoch"]))


def _end(started: list[Any], status: str) -> None:
    if started:
        import mlflow as client

        client.end_run(status)


def _numbers(entry: dict[str, float]) -> list[tuple[str, float]]:
    return [(name, value) for name, value in entry.items() if name != "epoch"]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
