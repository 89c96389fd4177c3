"""The same answer in the plainest way: raw ASGI, json, numpy, a session for each process. The guard compares with it.

It works on the caches as Seaway does. A server that only answers a constant is slowed less by busy neighbours, so that
a comparison with that tells of the neighbours.
"""

import json
import os

import numpy as np
import onnxruntime

_OPTIONS = onnxruntime.SessionOptions()
_OPTIONS.intra_op_num_threads = _OPTIONS.inter_op_num_threads = 1
_SESSION = onnxruntime.InferenceSession(os.environ["GUARD_MODEL"], _OPTIONS, providers=["CPUExecutionProvider"])
_NAMES = [output.name for output in _SESSION.get_outputs()]


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    tensors = json.loads(body)["inputs"]
    feeds = {one["name"]: np.array(one["data"], np.float32).reshape(one["shape"]) for one in tensors}
    outputs = zip(_NAMES, _SESSION.run(_NAMES, feeds), strict=True)
    described = [{"name": name, "shape": array.shape, "data": array.ravel().tolist()} for name, array in outputs]
    answer = json.dumps({"model_name": "flights", "model_version": "1", "outputs": described}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
