"""Runs on a device: batches in sizes of powers of two, each bound once to buffers that stay where they are.

The buffers of a size can be replayed as one CUDA graph, which spares the launch of every kernel. What a
batch lacks to its size is filled with copies of its last row: values that the model has seen anyway.
"""

import ctypes
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from registry.release import InputSpec
from serving.outputs import OutputSpec

DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
LARGEST = 256  # rows; a longer batch runs in several parts
TIMED_RUNS = 3
NO_GRAPH = "-1"  # the id under which ONNX Runtime neither captures nor replays


@dataclass(frozen=True)
class GpuSettings:
    """cuda_graphs: capture each size where the model allows. tensorrt_cache: folder of engines that were built.

    tf32: round what enters a float32 product to 10 bits, if the certificate of the release still holds.
    """

    cuda_graphs: bool = True
    tensorrt_cache: Path | None = None
    tf32: bool = True


def attempts(settings: GpuSettings) -> list[GpuSettings]:
    """Return `settings`, then what to try where a model does not allow them: without TF32, graphs, both."""
    graphs = [True, False] if settings.cuda_graphs else [False]
    tf32 = [True, False] if settings.tf32 else [False]
    return [replace(settings, cuda_graphs=graph, tf32=coarse) for graph in graphs for coarse in tf32]


def uncaptured() -> onnxruntime.RunOptions:
    """Return the options of a run that no CUDA graph is captured from; others are not affected by them."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", NO_GRAPH)
    return options


def provider_options(
    provider: str, settings: GpuSettings, row: InputSpec, precision: str, digest: str
) -> dict[str, str]:
    """Return what ONNX Runtime is told about a provider for a release with this row, precision and digest."""
    if provider == "CUDAExecutionProvider":
        return {"enable_cuda_graph": str(int(settings.cuda_graphs)), "use_tf32": str(int(settings.tf32))}
    if provider != "TensorrtExecutionProvider":
        return {}
    shape = {
        f"trt_profile_{bound}_shapes": f"{row.name}:{'x'.join(map(str, (rows, *row.shape)))}"
        for bound, rows in (("min", 1), ("opt", LARGEST // 8), ("max", LARGEST))
    }
    options = shape | {"trt_fp16_enable": str(int(precision == "fp16"))}
    if settings.tensorrt_cache is None:
        return options
    folder = settings.tensorrt_cache / digest
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # engines are code: nobody else may write there
    return options | {
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(folder),
    }  # fmt: skip


def bucket(rows: int) -> int:
    """Return the size that a batch of `rows` runs at: the next power of two, at most LARGEST."""
    return min(LARGEST, 1 << (rows - 1).bit_length())


class BoundSession:
    """A session whose inputs and outputs are bound. Of two threads that call `run`, one waits."""

    def __init__(
        self, session: onnxruntime.InferenceSession, row: InputSpec, outputs: dict[str, OutputSpec], device: str
    ) -> None:
        """outputs: what may be asked for; the first is the main one. device: cuda, or cpu."""
        self._session = session
        self._row = row
        self._outputs = outputs
        self._device = device
        self._buffers: dict[tuple[int, bool], _Buffers] = {}
        self._lock = threading.Lock()
        self.seconds: dict[int, float] = {}

    def run(
        self, rows: np.ndarray, names: tuple[str, ...] = (), options: onnxruntime.RunOptions | None = None
    ) -> list[np.ndarray]:
        """Return the outputs `names`, or the main one, of rows (n, *shape), each an array of n rows of its own."""
        if rows.shape[1:] != self._row.shape or rows.dtype != self._row.dtype:  # else they would be stretched to fit
            raise ValueError(f"rows are {rows.dtype} {rows.shape}, expected {self._row.dtype} (n, *{self._row.shape})")
        main = next(iter(self._outputs))
        whole = any(name != main for name in names)
        with self._lock:
            parts = [self._buffer(len(part), whole).run(part, options) for part in _parts(rows)]
        found = parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        return [found[name] for name in names or (main,)]

    def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the rows of `parts` in one array, where the device copies them from if they fit one run.

        The next `join` or `run` may write over it: for one thread that calls `run` with it at once.
        """
        count = sum(map(len, parts))
        if count > LARGEST:
            return np.concatenate(parts)
        with self._lock:
            return np.concatenate(parts, out=self._buffer(count, False).host[:count])

    def warm(self, rows: np.ndarray) -> None:
        """Run every size, so that no request waits for buffers, kernels or graphs, and time it."""
        size = 1
        while size <= LARGEST:
            batch = np.resize(rows, (size, *rows.shape[1:]))
            took = []
            for _ in range(TIMED_RUNS):
                start = time.perf_counter()
                self.run(batch)
                took.append(time.perf_counter() - start)
            self.seconds[size] = min(took)
            size *= 2

    def expected_s(self, rows: int) -> float:
        """Return about how long a batch of `rows` takes, by what `warm` measured."""
        full, rest = divmod(rows, LARGEST)
        return full * self.seconds[LARGEST] + (self.seconds[bucket(rest)] if rest else 0.0)

    def facts(self) -> dict[str, Any]:
        """Return the sizes with their microseconds, and whether the device copies from locked memory."""
        locked = bool(self._buffers) and all(buffers.locked for buffers in self._buffers.values())
        return {"bucket_us": {str(size): round(s * 1e6, 1) for size, s in self.seconds.items()}, "pinned": locked}

    def _buffer(self, rows: int, whole: bool) -> "_Buffers":
        key = (bucket(rows), whole)
        if key not in self._buffers:
            names = list(self._outputs) if whole else list(self._outputs)[:1]
            graph = str(1 + len(self._buffers))  # of this session; 0 is what runs without an id would share
            asked = {name: self._outputs[name] for name in names}
            self._buffers[key] = _Buffers(self._session, self._row, key[0], asked, (self._device, graph))
        return self._buffers[key]


class _Buffers:
    """The memory of one size of batch, on the host and on the device."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        row: InputSpec,
        rows: int,
        outputs: dict[str, OutputSpec],
        place: tuple[str, str],
    ) -> None:
        device, graph = place
        self.host = np.zeros((rows, *row.shape), row.dtype)
        self.locked = device == "cuda" and lock_pages(self.host)
        self._session = session
        self._names = tuple(outputs)
        self._binding = session.io_binding()
        self._value = _on_device(self.host.shape, row.dtype, device)
        self._binding.bind_ortvalue_input(row.name, self._value)
        fixed = all(None not in output.shape for output in outputs.values())
        self._graph = graph if fixed else NO_GRAPH
        for name, output in outputs.items():
            if fixed:
                shape = (rows, *(size or 0 for size in output.shape))
                self._binding.bind_ortvalue_output(name, _on_device(shape, output.dtype, device))
            else:
                self._binding.bind_output(name, device)
        self._options = uncaptured()
        self._options.add_run_config_entry("gpu_graph_id", self._graph)

    def run(self, rows: np.ndarray, options: onnxruntime.RunOptions | None) -> dict[str, np.ndarray]:
        """Return the outputs by name for at most as many rows as the buffers have."""
        count = len(rows)
        if options is not None:
            options.add_run_config_entry("gpu_graph_id", self._graph)
        self._fill(rows)
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding, options or self._options)
        self._binding.synchronize_outputs()
        values = self._binding.get_outputs()
        # On the CPU, numpy() shows the buffer itself, which the next run writes over.
        return {name: value.numpy()[:count].copy() for name, value in zip(self._names, values, strict=True)}

    def _fill(self, rows: np.ndarray) -> None:
        count = len(rows)
        if count == len(self.host):
            self._value.update_inplace(rows)
            return
        if rows.base is not self.host:  # `join` has put them there
            self.host[:count] = rows
        self.host[count:] = rows[-1]
        self._value.update_inplace(self.host)


def lock_pages(array: np.ndarray) -> bool:
    """Lock the memory of an array for as long as it lives, so that a GPU reads it directly; tell whether it is."""
    version = str(getattr(onnxruntime, "cuda_version", "")).split(".")[0]
    try:
        runtime = ctypes.CDLL(f"libcudart.so.{version}")
    except OSError:
        return False
    address = ctypes.c_void_p(array.ctypes.data)
    if runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), 0) != 0:
        return False
    weakref.finalize(array, runtime.cudaHostUnregister, address).atexit = False  # by then CUDA may be gone
    return True


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    if len(rows) <= LARGEST:
        yield rows
        return
    for start in range(0, len(rows), LARGEST):
        yield rows[start : start + LARGEST]


def _on_device(shape: tuple[int, ...], dtype: str, device: str) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype), device, 0)
