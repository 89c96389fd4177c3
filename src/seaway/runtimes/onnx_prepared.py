"""ONNX models as ONNX Runtime has made them ready for this machine, with weights that processes map from one file.

Two files: the optimized graph, and its weights in the layout in which the kernels read them ("pre-packed"), which
ONNX Runtime maps instead of copying (`session.save_external_prepacked_constant_initializers`). Both are only good for
the version of ONNX Runtime and the processor that made them.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from seaway.errors import Unavailable
from seaway.packages import PackageSpec
from seaway.runtimes.onnx import OnnxSession, open_session, read_signature, session_options
from seaway.runtimes.onnx_layout import align_weights
from seaway.runtimes.onnx_rewrite import open_rewritten

_GRAPH, _WEIGHTS = "model.onnx", "weights.bin"
_MIN_BYTES = 1 << 16
"""Smaller tensors stay in the graph."""


class PreparedOnnx:
    """Writes and loads them. On the CPU only."""

    def prepare(self, package: Path, spec: PackageSpec, directory: Path, *, rewritten: bool = False) -> None:
        """Write the model of `package` into `directory`, which is empty. Raises InvalidPackage, Unavailable."""
        options = session_options(1)
        options.optimized_model_filepath = str(directory / _GRAPH)
        for key, value in (
            ("optimized_model_external_initializers_file_name", _WEIGHTS),
            ("optimized_model_external_initializers_min_size_in_bytes", str(_MIN_BYTES)),
            ("save_external_prepacked_constant_initializers", "1"),
        ):
            options.add_session_config_entry(f"session.{key}", value)
        (open_rewritten if rewritten else open_session)(package, spec.model or "", options)
        weights = directory / _WEIGHTS
        if not weights.exists() or weights.stat().st_size == 0:
            raise Unavailable(f"It has no tensor of {_MIN_BYTES} bytes.")
        try:
            align_weights(directory / _GRAPH, weights)
        except (ValueError, OSError) as error:
            raise Unavailable(f"What ONNX Runtime has written could not be aligned: {error}") from error

    def load(self, directory: Path, *, threads: int) -> OnnxSession:
        """The session that `package` itself would give. Raises InvalidPackage."""
        options = session_options(threads)
        # It is optimized; what would be done once more could only undo the layout of the weights.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = open_session(directory, _GRAPH, options)
        return OnnxSession(session, read_signature(session))
