"""A residual network of the size of ResNet-50 as ONNX, with random weights: built here, so that no torch is needed."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Size:
    """pixels: of a side of the image. width: channels of the first stage. blocks: of each stage."""

    pixels: int = 224
    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    classes: int = 1000


SIZES = {"full": Size(), "small": Size(32, 8, (1, 1), 10)}


@dataclass
class _Graph:
    half: bool
    draw: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, kind: str, inputs: list[str], **attributes: object) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weight(self, *shape: int, scale: float) -> str:
        name = f"w{len(self.weights)}"
        values = self.draw.standard_normal(shape).astype(np.float32) * np.float32(scale)
        self.weights.append(numpy_helper.from_array(values.astype(np.float16 if self.half else np.float32), name))
        return name

    def conv(self, x: str, channels: tuple[int, int], kernel: int, stride: int = 1, gain: float = 1.0) -> str:
        before, after = channels
        scale = gain * (2 / (before * kernel * kernel)) ** 0.5
        weights = [self.weight(after, before, kernel, kernel, scale=scale), self.weight(after, scale=0.01)]
        pads = [(kernel - 1) // 2] * 4
        return self.add("Conv", [x, *weights], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def block(self, x: str, channels: tuple[int, int], inner: int, stride: int) -> str:
        y = self.add("Relu", [self.conv(x, (channels[0], inner), 1)])
        y = self.add("Relu", [self.conv(y, (inner, inner), 3, stride)])
        y = self.conv(y, (inner, channels[1]), 1, gain=0.3)  # a small step beside x: without norms, sizes stay in range
        if stride > 1 or channels[0] != channels[1]:
            x = self.conv(x, channels, 1, stride, gain=0.7)
        return self.add("Relu", [self.add("Add", [x, y])])


def build(size: Size, half: bool) -> bytes:
    """Return the ONNX bytes: float32 images (n, 3, pixels, pixels) -> probabilities (n, classes), and logits.

    half: whether weights and arithmetic are float16; what goes in and comes out stays float32.
    """
    made = _Graph(half)
    x = made.add("Cast", ["input"], to=TensorProto.FLOAT16) if half else "input"
    x = made.add("Relu", [made.conv(x, (3, size.width), 7, 2)])
    x = made.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = size.width
    for stage, blocks in enumerate(size.blocks):
        inner = size.width * 2**stage
        for i in range(blocks):
            x = made.block(x, (channels, 4 * inner), inner, 2 if stage and not i else 1)
            channels = 4 * inner
    x = made.add("Flatten", [made.add("GlobalAveragePool", [x])])
    x = made.add("MatMul", [x, made.weight(channels, size.classes, scale=2 * channels**-0.5)])
    made.nodes.append(helper.make_node("Cast", [x], ["logits"], to=TensorProto.FLOAT))
    made.nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, size.pixels, size.pixels])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size.classes])
        for name in ("probabilities", "logits")
    ]
    graph = helper.make_graph(made.nodes, "residual", [image], outputs, made.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content
