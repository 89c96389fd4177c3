"""Hear who speaks when: send a sound to a deployed `vad` in pieces of 32 ms, with the model's state in each request.

`python examples/vad/stream.py [SOUND.wav] [--url http://localhost:8080] [--protocol predict|infer]`. The state that one
answer brings goes into the next request, so that any worker can take any piece, and a new version in the middle too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

VOICE = Path(__file__).parent / "voice.wav"
RATE = 16_000
CHUNK = 512
CONTEXT = 64
"""The model hears a piece together with the end of the one before."""
STATE = (2, 1, 128)
THRESHOLD = 0.5

Array = np.ndarray[Any, Any]
Step = Callable[[httpx.Client, Array, Array], tuple[float, Array]]
"""One request: a piece and the state so far to the probability of speech and the next state."""


def read_wav(path: Path) -> Array:
    """The first channel as numbers from -1 to 1 at 16 kHz; the file's rate must be a multiple of that."""
    with wave.open(str(path)) as file:
        rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
        content = file.readframes(file.getnframes())
    if rate % RATE or width != 2:
        raise SystemExit(f"{path} has {width * 8} bits at {rate} Hz; this takes 16 bits at 16, 32 or 48 kHz.")
    sound = np.frombuffer(content, "<i2").reshape(-1, channels)[:, 0].astype(np.float32) / 32768
    factor = rate // RATE
    if factor == 1:
        return sound
    # What is above 8 kHz goes before the samples do, or it would come back as noise.
    kernel = np.sinc(np.arange(-48, 49) / factor) * np.hamming(97)
    return np.convolve(sound, kernel / kernel.sum(), "same")[::factor].astype(np.float32)


def chunks(sound: Array) -> Iterator[Array]:
    """Pieces of the model's input shape [1, 576]: 32 ms each, with the 4 ms before."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    for start in range(0, len(sound) - CHUNK + 1, CHUNK):
        yield padded[np.newaxis, start : start + CONTEXT + CHUNK]


def predict(client: httpx.Client, piece: Array, state: Array) -> tuple[float, Array]:
    """By `/predict`: an object of the model's inputs as JSON."""
    inputs = {"input": piece.tolist(), "state": state.tolist(), "sr": RATE}
    answer = client.post("/predict/vad", json={"inputs": inputs})
    outputs = _checked(answer).json()["outputs"]
    return outputs["output"][0][0], np.array(outputs["stateN"], dtype=np.float32)


def infer(client: httpx.Client, piece: Array, state: Array) -> tuple[float, Array]:
    """By the Open Inference Protocol with tensors in binary: a JSON header, then the bytes."""
    tensors = {"input": ("FP32", piece), "state": ("FP32", state), "sr": ("INT64", np.array(RATE, np.int64))}
    header = {
        "inputs": [
            {"name": name, "datatype": datatype, "shape": array.shape, "parameters": {"binary_data_size": array.nbytes}}
            for name, (datatype, array) in tensors.items()
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(header).encode()
    body = text + b"".join(array.tobytes() for _, array in tensors.values())
    length = {"Inference-Header-Content-Length": str(len(text))}
    answer = _checked(client.post("/v2/models/vad/infer", content=body, headers=length))
    outputs = _read_tensors(answer)
    return float(outputs["output"][0, 0]), outputs["stateN"]


def _read_tensors(answer: httpx.Response) -> dict[str, Array]:
    start = int(answer.headers["Inference-Header-Content-Length"])
    outputs = {}
    for tensor in json.loads(answer.content[:start])["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        array = np.frombuffer(answer.content[start : start + size], np.float32)
        outputs[tensor["name"]] = array.reshape(tensor["shape"])
        start += size
    return outputs


@contextlib.contextmanager
def _server(url: str) -> Iterator[httpx.Client]:
    """The server as a client; ends the program with a sentence when nobody answers."""
    try:
        with httpx.Client(base_url=url, timeout=10) as client:
            yield client
    except httpx.TransportError as error:
        raise SystemExit(f"No Seaway server answers at {url}; start one with `seaway serve`.") from error


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise SystemExit(f"{answer.status_code}: {answer.json()['error']}")
    return answer


PROTOCOLS: dict[str, Step] = {"predict": predict, "infer": infer}


def listen(client: httpx.Client, sound: Array, step: Step) -> list[float]:
    """The probability of speech in each piece of a sound, in order."""
    state = np.zeros(STATE, np.float32)
    probabilities = []
    for piece in chunks(sound):
        probability, state = step(client, piece, state)
        probabilities.append(probability)
    return probabilities


def spoken(probabilities: list[float]) -> list[tuple[float, float]]:
    """From when to when somebody speaks, in seconds."""
    speaks = np.array([False, *(probability > THRESHOLD for probability in probabilities), False])
    edges = np.flatnonzero(speaks[1:] != speaks[:-1]) * CHUNK / RATE
    return [(float(start), float(end)) for start, end in edges.reshape(-1, 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Hear who speaks when.")
    parser.add_argument("sound", type=Path, nargs="?", default=VOICE)
    parser.add_argument("--url", default="http://localhost:8080")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="predict")
    arguments = parser.parse_args()
    with _server(arguments.url) as client:
        probabilities = listen(client, read_wav(arguments.sound), PROTOCOLS[arguments.protocol])
    print("".join(" .:-=+*#%@"[int(probability * 9.99)] for probability in probabilities))
    for start, end in spoken(probabilities):
        print(f"speech from {start:.2f} s to {end:.2f} s")
    heard = sum(probability > THRESHOLD for probability in probabilities)
    print(f"{heard} of {len(probabilities)} pieces of {CHUNK / RATE * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
