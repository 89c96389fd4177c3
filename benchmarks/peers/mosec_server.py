"""mosec: an HTTP front in Rust, and worker processes for each model."""

import os

import numpy as np
import orjson
from common import CORES, NAMES, OUTPUTS, feeds, session
from mosec import Runtime, Server, Worker

MAX_ROWS = int(os.environ.get("BENCHMARK_BATCH", "1"))


class Model(Worker):
    name = ""

    def __init__(self):
        self.session = session(self.name)

    def deserialize(self, data):
        return feeds(self.name, orjson.loads(data))

    def forward(self, data):
        if MAX_ROWS == 1:
            return self.session.run(OUTPUTS[self.name], data)[0]
        together = {name: np.concatenate([inputs[name] for inputs in data]) for name in data[0]}
        found = self.session.run(OUTPUTS[self.name], together)[0]
        return np.split(found, np.cumsum([len(next(iter(inputs.values()))) for inputs in data])[:-1])

    def serialize(self, data):
        return orjson.dumps({"output": np.ascontiguousarray(data)}, option=orjson.OPT_SERIALIZE_NUMPY)


# Worker processes import their class by its name.
for _name in NAMES:
    globals()[f"Model_{_name}"] = type(f"Model_{_name}", (Model,), {"name": _name, "__module__": __name__})

if __name__ == "__main__":
    server = Server()
    BATCHES = {"max_batch_size": MAX_ROWS, "max_wait_time": 1} if MAX_ROWS > 1 else {}
    runtimes = {f"/{name}": [Runtime(globals()[f"Model_{name}"], num=CORES, timeout=60, **BATCHES)] for name in NAMES}
    server.register_runtime(runtimes)
    server.run()
