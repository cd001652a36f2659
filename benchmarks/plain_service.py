"""The documented BentoML way to serve the same model, to be measured beside ours: no checks, no monitoring."""

import os

import bentoml
import numpy as np
import onnxruntime

from registry import aliases, store


@bentoml.service(name="plain", workers=1)
class Plain:
    """One array in, one array out."""

    def __init__(self) -> None:
        pin = aliases.read(os.environ["VIGIL_MODEL"]).champion
        if pin is None:
            raise RuntimeError("promote a release first")
        content = store.open_release(f"{os.environ['VIGIL_MODEL']}:{pin.version}").read("model.onnx")
        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        """Return the probabilities of `rows`."""
        answers: list[np.ndarray] = self.session.run(["probabilities"], {"input": rows.astype(np.uint8)})  # type: ignore[type-arg]
        return answers[0]
