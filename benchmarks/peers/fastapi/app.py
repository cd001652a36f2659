"""The usual small service around ONNX Runtime: FastAPI, one route for raw bytes and one for JSON."""

import os
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(os.environ["THREADS"])
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
shape = (-1, *session.get_inputs()[0].shape[1:])
app = FastAPI()


class Rows(BaseModel):
    rows: list[Any]


@app.get("/ready")
async def ready() -> str:
    return "ready"


@app.post("/raw")
async def raw(request: Request) -> Response:
    rows = np.frombuffer(await request.body(), np.float32).reshape(shape)
    return Response(session.run(["probabilities"], {"input": rows})[0].tobytes(), media_type="application/octet-stream")


@app.post("/json")
async def as_json(asked: Rows) -> dict[str, Any]:
    rows = np.asarray(asked.rows, np.float32).reshape(shape)
    return {"probabilities": session.run(["probabilities"], {"input": rows})[0].tolist()}
