"""The least that an HTTP server in Python does: read the body, answer the same bytes."""

BODY = b'{"model_name":"tabular","model_version":"1","outputs":[{"name":"probabilities","shape":[1,2],"datatype":"FP32","data":[0.01,0.99]}]}'  # noqa: E501
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))],
}
END = {"type": "http.response.body", "body": BODY}


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body", False):
        pass
    await send(START)
    await send(END)
