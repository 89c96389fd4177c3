"""A model of Triton's Python backend, which is the only one in the wheel that brings Triton's server."""

import numpy as np
import triton_python_backend_utils as backend
from common import INPUTS, OUTPUTS, session


class TritonPythonModel:
    def initialize(self, arguments):
        self.name = arguments["model_name"]
        self.session = session(self.name)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        inputs = {name: backend.get_input_tensor_by_name(request, name).as_numpy() for name in INPUTS[self.name]}
        outputs = self.session.run(OUTPUTS[self.name], inputs)
        return backend.InferenceResponse([backend.Tensor("output", np.ascontiguousarray(outputs[0]))])
