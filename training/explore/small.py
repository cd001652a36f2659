"""Images made small: area averages, and what a few of them look like as the bytes of a PNG file."""

import base64
import struct
import zlib

import numpy as np


def pixels(x: np.ndarray) -> np.ndarray:
    """Return images (n, height, width[, channels]) as (n, height, width, channels)."""
    return x[..., None] if x.ndim == 3 else x


def averaged(x: np.ndarray, side: int) -> np.ndarray:
    """Return images as float32 (n, h, w, channels), each pixel the mean of a square, h and w about `side` at most."""
    whole = pixels(x)
    k = min(max(1, -(-max(whole.shape[1:3]) // side)), min(whole.shape[1:3]))
    height, width = whole.shape[1] // k, whole.shape[2] // k
    cut = whole[:, : height * k, : width * k].astype(np.float32)
    areas = cut.reshape(len(x), height, k, width, k, cut.shape[3])
    mean: np.ndarray = areas.mean(axis=(2, 4))
    return mean


def shown(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return one image (height, width, channels) as uint8 grey (h, w) or colour (h, w, 3), low black, high white."""
    scaled = (image.astype(np.float32) - low) * (255 / max(high - low, 1e-9))
    grey: np.ndarray = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return grey[..., :3] if grey.shape[2] >= 3 else grey[..., 0]


def png(image: np.ndarray) -> bytes:
    """Return a PNG file of uint8 (height, width) or (height, width, 3). Source: PNG specification, 3rd edition."""
    height, width = image.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    lines = np.concatenate([np.zeros((height, 1), dtype=np.uint8), image.reshape(height, -1)], axis=1)
    body = zlib.compress(lines.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def uri(image: np.ndarray) -> str:
    """Return the image as an address that holds the file itself."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
