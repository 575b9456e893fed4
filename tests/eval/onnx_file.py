"""Writes tiny ONNX files, so that tests need neither the onnx package nor a download.

Source: field numbers of onnx/onnx.proto3, IR version 8, opset 13.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 7}


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, value: np.ndarray) -> bytes:
    dims = b"".join(_field(1, size) for size in value.shape)
    return dims + _field(2, _TYPES[value.dtype]) + _field(8, name) + _field(9, value.tobytes())


def _value(name: str, kind: int, shape: Sequence[int]) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, dims)))


def _node(kind: str, inputs: Sequence[str], output: str, attributes: bytes = b"") -> bytes:
    return (
        b"".join(_field(1, name) for name in inputs)
        + _field(2, output)
        + _field(3, output)
        + _field(4, kind)
        + attributes
    )


def _attribute(name: str, value: int) -> bytes:
    return _field(5, _field(1, name) + _field(3, value) + _field(20, 2))


def detector(
    *,
    height: int,
    width: int,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    names: Sequence[str] = ("boxes", "scores", "labels"),
    inputs: int = 1,
) -> bytes:
    """Return an ONNX file that always finds the same boxes.

    Its scores are those given times the mean of its input, which shows what it was fed.
    """
    given = {"b": boxes.astype(np.float32), "s": scores.astype(np.float32)}
    nodes = [
        _node("ReduceMean", ["image"], "mean", _attribute("keepdims", 0)),
        _node("Identity", ["b"], names[0]),
        _node("Mul", ["s", "mean"], names[1]),
    ]
    outputs = [_value(names[0], 1, boxes.shape), _value(names[1], 1, scores.shape)]
    if labels is not None:
        given["l"] = labels.astype(np.int64)
        nodes.append(_node("Identity", ["l"], names[2]))
        outputs.append(_value(names[2], 7, labels.shape))
    graph = (
        b"".join(_field(1, node) for node in nodes)
        + _field(2, "detector")
        + b"".join(_field(5, _tensor(name, value)) for name, value in given.items())
        + b"".join(
            _field(11, _value(name, 1, (1, 3, height, width)))
            for name in ("image", "other")[:inputs]
        )
        + b"".join(_field(12, output) for output in outputs)
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13))
