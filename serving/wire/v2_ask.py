"""What the JSON of an infer call of Open Inference Protocol v2 asks for, checked against the release."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from registry.errors import RequestError
from registry.release import Release
from serving.wire.numbers import array_of
from serving.wire.request import EVERY, LONGEST_ID, kind, malformed, refuse, shown
from serving.wire.rows import Layout, demand_codes
from serving.wire.text import demand_unique, pairs_in

CLASS = "class"  # the output that is no output of the graph: the name of the class that was decided
DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip


@dataclass(slots=True)
class Form:
    """How the answer is written. names: of the tensors in it, None is all. binary: unless `differing` says else.

    heads: by rows, the JSON of the answers given before, in two parts between which the id stands.
    """

    names: tuple[str, ...] | None = None
    binary: bool = False
    differing: dict[str, bool] = field(default_factory=dict)
    heads: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)

    def is_binary(self, name: str) -> bool:
        return self.differing.get(name, self.binary)


@dataclass(slots=True)
class Ask:
    """A call without its numbers. rows: how many; size_bytes: of their bytes; data: or the numbers as JSON."""

    rows: int
    size_bytes: int = 0
    data: list[Any] | None = None
    ident: str | None = None
    outputs: tuple[str, ...] = EVERY
    form: Form = field(default_factory=Form)


def ask_of(said: Any, text: bytes, release: Release, binary: bool) -> Ask:
    """Return what `said`, read from `text`, asks; binary: its tensor follows as bytes. Raises RequestError."""
    if not isinstance(said, dict):
        raise malformed(f"must be an object with inputs, found {kind(said)}")
    demand_unique(text, pairs_in(said))
    form = _form(said.get("outputs"), _parameters(said, "parameters"), release.manifest.output)
    given = _input(said.get("inputs"), release)
    rows, size_bytes, data = _tensor(given, release, binary)
    return Ask(rows, size_bytes, data, _ident(said.get("id")), _outputs(form, release), form)


def rows_of(ask: Ask, suspect: bool, layout: Layout) -> np.ndarray:
    """Return the numbers of `ask.data`, (n, *shape), given flat or nested; raises RequestError."""
    name, data = layout.spec.name, ask.data or []
    if data and not isinstance(data[0], list):
        if len(data) != ask.rows * layout.size:
            refuse(name, None, f"must hold {ask.rows * layout.size} values, found {len(data)}", "shape")
        for length in reversed(layout.shape):
            data = [data[i : i + length] for i in range(0, len(data), length)]
    if len(data) != ask.rows:
        refuse(name, None, f"must hold {ask.rows} rows, as its shape says, found {len(data)}", "shape")
    for column, fill in layout.fills:
        for row in data:
            if isinstance(row, list) and len(row) > column and row[column] is None:
                row[column] = fill
    rows = array_of(data, suspect, layout, name)
    if layout.coded:
        demand_codes(rows, layout, name)
    return rows


def _input(given: Any, release: Release) -> dict[str, Any]:
    name = release.manifest.input.name
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict):
        found = f"{len(given)} of them" if isinstance(given, list) and len(given) != 1 else kind(given)
        raise _wrong("inputs", f"must be a list of one tensor, '{name}', found {found}")
    if given[0].get("name") != name:
        raise _wrong("inputs", f"the model takes the tensor '{name}', found {shown(given[0].get('name'))}")
    tensor: dict[str, Any] = given[0]
    return tensor


def _tensor(given: dict[str, Any], release: Release, binary: bool) -> tuple[int, int, list[Any] | None]:
    # Rows, bytes and numbers of the input tensor.
    spec = release.manifest.input
    datatype, shape = given.get("datatype"), given.get("shape")
    if datatype != DATATYPES[spec.dtype]:
        refuse(spec.name, None, f"must have the datatype {DATATYPES[spec.dtype]}, found {shown(datatype)}", "dtype")
    if not isinstance(shape, list) or not all(type(length) is int for length in shape):
        raise _wrong(spec.name, f"shape must be a list of whole numbers, found {shown(shape)}")
    if tuple(shape[1:]) != spec.shape or not shape or shape[0] < 1:
        wanted = ", ".join(["n", *map(str, spec.shape)])
        refuse(spec.name, None, f"must have the shape [{wanted}] with n >= 1, found {shown(shape)}", "shape")
    parameters, data = _parameters(given, spec.name), given.get("data")
    if any(key.startswith("shared_memory") for key in parameters):
        raise _wrong(spec.name, "shared memory is not accepted; send the numbers")
    size_bytes = parameters.get("binary_data_size")
    if not binary:
        if size_bytes is not None:
            raise _wrong(spec.name, "binary_data_size needs the header Inference-Header-Content-Length")
        if not isinstance(data, list):
            raise _wrong(spec.name, f"data must be a list of numbers, found {kind(data)}")
        return shape[0], 0, data
    if type(size_bytes) is not int or size_bytes < 0 or data is not None:
        raise _wrong(spec.name, "must have no data and the parameter binary_data_size, a number of bytes")
    return shape[0], size_bytes, None


def _form(given: Any, parameters: dict[str, Any], main: str) -> Form:
    binary = _flag(parameters, "binary_data_output", "parameters")
    if given is None:
        return Form(None, binary or False)
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise _wrong("outputs", f"must be a list of objects with a name, found {kind(given)}")
    differing: dict[str, bool] = {}
    for one in given:
        name, own = one.get("name"), _parameters(one, "outputs")
        if not isinstance(name, str) or name in differing:
            raise _wrong("outputs", f"each must have a name of its own, found {shown(name)}")
        if own.get("classification"):
            raise _wrong("outputs", f"classification is not offered; ask for the output '{CLASS}'")
        if any(key.startswith("shared_memory") for key in own):
            raise _wrong("outputs", "shared memory is not offered")
        said = _flag(own, "binary_data", "outputs")
        differing[name] = bool(binary) if said is None else said
    return Form(tuple(differing) or (main,), binary or False, differing)


def _outputs(form: Form, release: Release) -> tuple[str, ...]:
    if form.names is None:
        return EVERY
    manifest = release.manifest
    names = tuple(name for name in form.names if name != CLASS or not manifest.classes)
    return () if names == (manifest.output,) else names


def _ident(given: Any) -> str | None:
    if given is None or given == "":
        return None
    if not isinstance(given, str) or len(given) > LONGEST_ID:
        raise _wrong("id", f"must be a string of at most {LONGEST_ID} characters, found {kind(given)}")
    return given


def _parameters(said: dict[str, Any], field: str) -> dict[str, Any]:
    given = said.get("parameters")
    if given is None:
        return {}
    if not isinstance(given, dict) or any(isinstance(value, dict | list) for value in given.values()):
        raise _wrong(field, "parameters must be an object of strings, numbers and booleans")
    return given


def _flag(parameters: dict[str, Any], key: str, field: str) -> bool | None:
    said = parameters.get(key)
    if said is not None and not isinstance(said, bool):
        raise _wrong(field, f"{key} must be true or false, found {kind(said)}")
    return said


def _wrong(field: str, why: str) -> RequestError:
    return RequestError(f"{field}: {why}", status=400, field=field)
