"""Reads the object that `flocker demo --json` ends with, and fails unless it proves what it should."""

import json
import shutil
import sys

last = json.loads(sys.stdin.read().strip().splitlines()[-1])
proof = last["proof"]
assert proof["acknowledged"] > 0, proof
assert proof["lost"] == 0 and proof["duplicated"] == 0, proof
assert proof["present"] >= proof["acknowledged"], proof
assert proof["pause_ms"] > 0, proof
assert last["rounds"], last
if shutil.which("redis-server"):
    # A database that we did not write keeps what it has acknowledged.
    stranger = last["stranger"]
    assert stranger["program"] == "redis" and stranger["kept"] is True, stranger
    assert stranger["downtime_ms"] is not None, stranger
    print("redis:", json.dumps(stranger))
else:
    print("NOT TESTED: redis-server is not installed, so no database was moved", file=sys.stderr)
print("demo:", json.dumps(proof))
