"""Reads the object that `flocker demo --json` ends with, and fails unless it proves what it should."""

import json
import sys

last = json.loads(sys.stdin.read().strip().splitlines()[-1])
proof = last["proof"]
assert proof["acknowledged"] > 0, proof
assert proof["lost"] == 0 and proof["duplicated"] == 0, proof
assert proof["present"] >= proof["acknowledged"], proof
assert proof["pause_ms"] > 0, proof
assert last["rounds"], last
print("demo:", json.dumps(proof))
