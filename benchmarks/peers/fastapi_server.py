"""What one writes in an afternoon: pydantic in and out, blocking work in plain functions (FastAPI's thread pool)."""

from common import NAMES, OUTPUTS, feeds, session
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
sessions = {name: session(name) for name in NAMES}


class Row(BaseModel):
    X: list[list[float]]


class Tokens(BaseModel):
    input_ids: list[list[int]]
    attention_mask: list[list[int]]


class Picture(BaseModel):
    x: list[list[list[list[float]]]]


class Answer(BaseModel):
    output: list[list[float]]


def run(name: str, request: BaseModel) -> Answer:
    outputs = sessions[name].run(OUTPUTS[name], feeds(name, request.__dict__))
    return Answer(output=outputs[0].tolist())


@app.post("/tabular")
def tabular(request: Row) -> Answer:
    return run("tabular", request)


@app.post("/minilm")
def minilm(request: Tokens) -> Answer:
    return run("minilm", request)


@app.post("/minilm_int8")
def minilm_int8(request: Tokens) -> Answer:
    return run("minilm_int8", request)


@app.post("/slow")
def slow(request: Tokens) -> Answer:
    return run("slow", request)


@app.post("/vision")
def vision(request: Picture) -> Answer:
    return run("vision", request)
