"""Functions of images as ONNX models. Needs the package `onnx`."""

from srigl_jax.onnx_writer.writer import INPUT, OUTPUT, to_onnx

__all__ = ["INPUT", "OUTPUT", "to_onnx"]
