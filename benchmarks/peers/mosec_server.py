"""mosec: an HTTP front in Rust, and worker processes for each model."""

import numpy as np
import orjson
from common import CORES, NAMES, OUTPUTS, feeds, session
from mosec import Runtime, Server, Worker


class Model(Worker):
    name = ""

    def __init__(self):
        self.session = session(self.name)

    def deserialize(self, data):
        return feeds(self.name, orjson.loads(data))

    def forward(self, data):
        return self.session.run(OUTPUTS[self.name], data)[0]

    def serialize(self, data):
        return orjson.dumps({"output": np.ascontiguousarray(data)}, option=orjson.OPT_SERIALIZE_NUMPY)


# Worker processes import their class by its name.
for _name in NAMES:
    globals()[f"Model_{_name}"] = type(f"Model_{_name}", (Model,), {"name": _name, "__module__": __name__})

if __name__ == "__main__":
    server = Server()
    runtimes = {f"/{name}": [Runtime(globals()[f"Model_{name}"], num=CORES, timeout=60)] for name in NAMES}
    server.register_runtime(runtimes)
    server.run()
