"""What the batch lane's queue costs a row, and what length bucketing saves: on made up devices, without a model.

    python benchmarks/micro/batching.py [--json]

`put`, `take` and `done` take turns for every batch, so that as many rows wait all the time; `take` is also given for a
batch, since a device waits for it. The second table is a closed loop of 64 callers with lengths of 8 to 128 tokens and
batches of at most 32 rows; `limit` is the part of the rate that batches of 32 equal rows would have.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from seaway.serving.batch_limits import BatchCost, BatchLimits
from seaway.serving.batching import BatchQueue, QueueBounds
from seaway.serving.tickets import Ticket

ROOMY = QueueBounds(1 << 30, 1 << 30, 1 << 60)
NEVER = 1 << 62
ROUNDS = 200
Results = dict[str, dict[str, float]]

GPU = BatchLimits(32, 4096, cost=BatchCost(fixed_ns=1e6, per_token_ns=1e3))
QUEUES: dict[str, tuple[BatchLimits, int, int, bool]] = {
    # limits, rows that wait, rows of a request, whether lengths differ
    "64 wait, mixed lengths": (GPU, 64, 1, True),
    "64 wait, no bucketing": (replace(GPU, bucketing=False), 64, 1, True),
    "64 wait, equal lengths": (GPU, 64, 1, False),
    "5,000 wait, mixed lengths": (GPU, 5_000, 1, True),
    "5,000 wait, no bucketing": (replace(GPU, bucketing=False), 5_000, 1, True),
    "5,000 wait, batches of 256": (replace(GPU, max_rows=256, max_tokens=None), 5_000, 1, True),
    "requests of 100, mixed lengths": (GPU, 5_000, 100, True),
    "requests of 100, equal lengths": (GPU, 5_000, 100, False),
}
DEVICES = {
    "MiniLM on 2 cores": BatchCost(4e6, 130e3),
    "200 tokens begin a batch": BatchCost(1e6, 5e3),
    "1,000 tokens begin a batch": BatchCost(1e6, 1e3),
    "8,000 tokens begin a batch": BatchCost(2e6, 250),
}


def row_costs(limits: BatchLimits, waiting: int, rows: int, *, mixed: bool) -> dict[str, float]:
    """Microseconds a row of each call, the median over batches, and of `take` a batch."""
    chance, queue = random.Random(1), BatchQueue(limits, ROOMY)

    def tickets(count: int) -> list[Ticket]:
        lengths: list[Sequence[int]] = [
            [chance.randint(8, 128) for _ in range(rows)] if mixed else [64] * rows for _ in range(count)
        ]
        return [Ticket("k", rows, 0, NEVER, each) for each in lengths]

    times: dict[str, list[float]] = {"put": [], "take": [], "done": [], "take a batch": []}
    for ticket in tickets(max(1, waiting // rows)):
        queue.put(ticket)
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        batch = queue.take(0, device_free=True)
        taken = time.perf_counter_ns()
        if batch is None:
            raise RuntimeError("a queue that is never empty gave no batch")
        ended = queue.done(batch)
        done = time.perf_counter_ns()
        fresh = tickets(len(ended))
        putting = time.perf_counter_ns()
        for ticket in fresh:
            queue.put(ticket)
        put = time.perf_counter_ns() - putting
        times["take a batch"].append((taken - began) / 1000)
        times["take"].append((taken - began) / 1000 / batch.rows)
        times["done"].append((done - taken) / 1000 / batch.rows)
        if ended:
            times["put"].append(put / 1000 / rows / len(ended))
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def closed_loop(limits: BatchLimits, *, callers: int = 64, answers: int = 6_000) -> dict[str, float]:
    """What such callers, who ask again within 2 ms of an answer, get from a device with exactly that cost."""
    chance, queue, now, n_batches = random.Random(1), BatchQueue(limits, ROOMY), 0, 0
    padding = tokens = 0
    waited: list[int] = []
    calls = [(0, caller) for caller in range(callers)]
    while len(waited) < answers:
        while calls and calls[0][0] <= now:
            arrived, _ = heapq.heappop(calls)
            queue.put(Ticket("k", 1, arrived, NEVER, [chance.randint(8, 128)]))
        batch = queue.take(now, device_free=True)
        if batch is None:
            now = calls[0][0]
            continue
        now += int(limits.cost.run_ns(batch.rows, batch.width))
        n_batches, padding, tokens = n_batches + 1, padding + batch.padding, tokens + batch.tokens
        for ticket in queue.done(batch):
            waited.append(now - ticket.arrived_ns)
            heapq.heappush(calls, (now + chance.randint(0, 2_000_000), len(waited)))
    rate = answers / now * 1e9
    best = 1e9 / (limits.cost.fixed_ns / limits.max_rows + limits.cost.per_token_ns * 68)
    return {
        "rows/s": round(rate, 1),
        "limit": round(rate / best, 3),
        "padding": round(padding / tokens, 3),
        "rows/batch": round(answers / n_batches, 1),
        "p99 ms": round(sorted(waited)[int(0.99 * answers)] / 1e6, 1),
    }


def show(title: str, results: Results) -> None:
    columns = list(next(iter(results.values())))
    print(f"{title:<44}" + "".join(f"{column:>14}" for column in columns))
    for name, values in results.items():
        print(f"{name:<44}" + "".join(f"{values[column]:>14,}" for column in columns))
    print()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="print JSON instead of tables")
    as_json = arguments.parse_args().json
    costs = {name: row_costs(*queue[:3], mixed=queue[3]) for name, queue in QUEUES.items()}
    loops = {
        f"{name}, {'bucketing' if bucketing else 'none'}": closed_loop(BatchLimits(32, bucketing=bucketing, cost=cost))
        for name, cost in DEVICES.items()
        for bucketing in (True, False)
    }
    if as_json:
        print(json.dumps({"microseconds": costs, "simulated": loops}, indent=2))
        return
    show("microseconds a row", costs)
    show("simulated: 64 callers", loops)


if __name__ == "__main__":
    main()
