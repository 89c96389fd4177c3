"""A runtime of MLServer; its settings are written by benchmarks/systems/mlserver.py."""

from common import OUTPUTS, session
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        self.session = session(self.name)
        return True

    async def predict(self, request: InferenceRequest) -> InferenceResponse:
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in request.inputs}
        outputs = self.session.run(OUTPUTS[self.name], inputs)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", outputs[0])])
