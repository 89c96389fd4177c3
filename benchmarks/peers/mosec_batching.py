"""mosec with its own batching: an HTTP front in Rust, one worker process that has all cores."""

import orjson
from embedder import MAX_ROWS, Embedder
from mosec import Server, Worker


class Model(Worker):
    def __init__(self):
        self.embed = Embedder()

    def deserialize(self, data):
        return orjson.loads(data)["inputs"]

    def forward(self, texts):
        return list(self.embed(texts))

    def serialize(self, output):
        return orjson.dumps({"outputs": output}, option=orjson.OPT_SERIALIZE_NUMPY)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=MAX_ROWS, max_wait_time=5, timeout=60)
    server.run()
