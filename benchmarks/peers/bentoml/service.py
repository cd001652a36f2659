"""The documented BentoML way to serve a model: an API over arrays, everything else left as it comes."""

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1)
class Plain:
    """One array in, one array out."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        """Return the probabilities of `rows`."""
        answers: list[np.ndarray] = self.session.run(["probabilities"], {"input": rows.astype(np.float32)})  # type: ignore[type-arg]
        return answers[0]
