"""What a process asks of its interpreter and the system."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc, weakref
from seaway.serving.process import settle
class Thing: pass
old = Thing(); settle()
young = Thing(); young.itself = young; gone = weakref.ref(young); del young
seen = len(gc.get_objects()); gc.collect()
print(seen, gc.get_freeze_count(), any(o is old for o in gc.get_objects()), gone() is None)
"""


def test_a_full_collection_after_settling_walks_only_what_came_later() -> None:
    answer = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    seen, frozen, sees_old, collects_young = answer.split()
    assert int(seen) < 200 < 5000 < int(frozen)
    assert (sees_old, collects_young) == ("False", "True")
