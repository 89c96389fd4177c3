"""BentoML: one service with a method for each model, in one process for each core."""

import bentoml
import numpy as np
from common import CORES, NAMES, OUTPUTS, PORT, feeds, session


@bentoml.service(workers=CORES, traffic={"timeout": 60}, logging={"access": {"enabled": False}}, http={"port": PORT})
class Models:
    def __init__(self):
        self.sessions = {name: session(name) for name in NAMES}

    def run(self, name, **values):
        return self.sessions[name].run(OUTPUTS[name], feeds(name, values))[0]

    @bentoml.api
    def tabular(self, X: np.ndarray) -> np.ndarray:
        return self.run("tabular", X=X)

    @bentoml.api
    def minilm(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return self.run("minilm", input_ids=input_ids, attention_mask=attention_mask)

    @bentoml.api
    def minilm_int8(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return self.run("minilm_int8", input_ids=input_ids, attention_mask=attention_mask)

    @bentoml.api
    def slow(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return self.run("slow", input_ids=input_ids, attention_mask=attention_mask)

    @bentoml.api
    def vision(self, x: np.ndarray) -> np.ndarray:
        return self.run("vision", x=x)
