"""LitServe: FastAPI in front, queues to worker processes."""

import litserve
from common import CORES, NAMES, OUTPUTS, PORT, feeds, session


class Api(litserve.LitAPI):
    def __init__(self, name):
        super().__init__(api_path=f"/{name}")
        self.name = name

    def setup(self, device):
        self.session = session(self.name)

    def decode_request(self, request):
        return feeds(self.name, request)

    def predict(self, inputs):
        return self.session.run(OUTPUTS[self.name], inputs)[0]

    def encode_response(self, output):
        return {"output": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        [Api(name) for name in NAMES], accelerator="cpu", workers_per_device=CORES, fast_queue=True, timeout=60
    )
    server.run(host="127.0.0.1", port=PORT, num_api_servers=CORES, log_level="warning", generate_client_file=False)
