"""KServe's Python SDK, without a cluster."""

from common import CORES, NAMES, OUTPUTS, PORT, session
from kserve import InferOutput, InferResponse, Model, ModelServer


class OnnxModel(Model):
    def __init__(self, name):
        super().__init__(name)
        self.load()

    def load(self):
        self.session = session(self.name)
        self.ready = True
        return True

    # Its processes get the models pickled, which a session of ONNX Runtime refuses.
    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "session"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.load()

    async def predict(self, payload, headers=None, response_headers=None):
        outputs = self.session.run(OUTPUTS[self.name], {each.name: each.as_numpy() for each in payload.inputs})
        output = InferOutput(name="output", shape=list(outputs[0].shape), datatype="FP32")
        as_binary = bool(getattr(payload, "use_binary_outputs", False))
        output.set_data_from_numpy(outputs[0], binary_data=as_binary)
        return InferResponse(response_id=payload.id or "", model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    server = ModelServer(http_port=PORT, grpc_port=PORT + 1, workers=CORES, enable_grpc=False, access_log_format=None)
    server.start([OnnxModel(name) for name in NAMES])
