"""A model of Triton's Python backend, which is the only one in the wheel that brings Triton's server."""

import json

import numpy as np
import triton_python_backend_utils as backend
from common import INPUTS, OUTPUTS, session


class TritonPythonModel:
    def initialize(self, arguments):
        self.name = arguments["model_name"]
        self.session = session(self.name)
        self.batches = json.loads(arguments["model_config"])["max_batch_size"] > 1

    def execute(self, requests):
        given = [
            {name: backend.get_input_tensor_by_name(request, name).as_numpy() for name in INPUTS[self.name]}
            for request in requests
        ]
        if self.batches and len(given) > 1:
            together = {name: np.concatenate([inputs[name] for inputs in given]) for name in given[0]}
            outputs = np.split(
                self.run(together), np.cumsum([len(next(iter(inputs.values()))) for inputs in given])[:-1]
            )
        else:
            outputs = [self.run(inputs) for inputs in given]
        return [
            backend.InferenceResponse([backend.Tensor("output", np.ascontiguousarray(output))]) for output in outputs
        ]

    def run(self, inputs):
        return self.session.run(OUTPUTS[self.name], inputs)[0]
