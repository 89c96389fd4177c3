"""Ray Serve: a deployment with one replica for each core, for each model."""

import threading

import ray
from common import CORES, NAMES, PORT
from ray import serve
from starlette.requests import Request

QUIET = {"enable_access_log": False, "log_level": "ERROR"}


@serve.deployment(
    num_replicas=CORES, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.01}, logging_config=QUIET
)
class Model:
    def __init__(self, name):
        import common  # noqa: PLC0415 - in the replica, which is another process

        self.name = name
        self.common = common
        self.session = common.session(name)

    async def __call__(self, request: Request):
        inputs = self.common.feeds(self.name, await request.json())
        return {"output": self.session.run(self.common.OUTPUTS[self.name], inputs)[0].tolist()}


if __name__ == "__main__":
    ray.init(
        num_cpus=CORES,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=200 * 2**20,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config=QUIET)
    for name in NAMES:
        serve.run(Model.bind(name), name=name, route_prefix=f"/{name}")
    threading.Event().wait()
