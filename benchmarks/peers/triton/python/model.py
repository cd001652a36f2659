"""Triton's Python backend around ONNX Runtime: what it batched runs as one."""

import os
import sys
from typing import Any

sys.path.insert(0, os.environ["PACKAGES"])  # the backend's Python ignores PYTHONPATH

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        rows = [triton.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        answers = self.session.run(["probabilities"], {"input": np.concatenate(rows)})[0]
        parts = np.split(answers, np.cumsum([len(part) for part in rows])[:-1])
        return [triton.InferenceResponse([triton.Tensor("probabilities", part)]) for part in parts]
