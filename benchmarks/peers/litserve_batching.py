"""LitServe with its own batching: one worker that has all cores, as it has the whole of a GPU."""

import litserve
from embedder import DEVICE, MAX_ROWS, PORT, Embedder


class Api(litserve.LitAPI):
    def setup(self, device):
        self.embed = Embedder()

    def decode_request(self, request):
        return request["inputs"]

    def predict(self, texts):
        return self.embed(list(texts))

    def encode_response(self, output):
        return {"outputs": output.tolist()}


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_ROWS, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator=DEVICE, workers_per_device=1, fast_queue=True, timeout=60)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
