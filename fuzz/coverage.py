#!/usr/bin/env python3
"""Tells how many edges of our own code the inputs of a fuzz target reach, module by module.

    fuzz/run TARGET coverage

runs every known input once and hands what the fuzzing runtime prints to this: one line for each function, with the
edges that were reached and those that are there. The runtime knows a function by its place in the program only; its
name comes from `nm`.
"""

import bisect
import collections
import re
import subprocess
import sys


def functions(program):
    """Returns the places of functions, and their names, in order of place."""
    listed = subprocess.run(["nm", "-C", "--defined-only", program], check=True, capture_output=True, text=True)
    found = []
    for line in listed.stdout.splitlines():
        place, kind, name = line.split(" ", 2)
        if kind in "tTwW":
            found.append((int(place, 16), name))
    return sorted(found)


def module(name):
    """Returns the module of ours in which a function is, or nothing."""
    found = re.search(r"\b(flocker_(?:model|plan|backends|engine)(?:::[a-z_0-9]+)*)::", name)
    return "::".join(found.group(1).split("::")[:4]) if found else None


def main(program, prefixes):
    known = functions(program)
    places = [place for place, _ in known]
    reached, there = collections.Counter(), collections.Counter()
    for line in sys.stdin:
        found = re.match(r"(?:UN)?COVERED_FUNC: hits: \d+ edges: (\d+)/(\d+) (0x[0-9a-f]+)", line)
        if not found:
            continue
        at = bisect.bisect_right(places, int(found.group(3), 16)) - 1
        name = module(known[at][1]) if at >= 0 else None
        if name and (not prefixes or any(name.startswith(prefix) for prefix in prefixes)):
            reached[name] += int(found.group(1))
            there[name] += int(found.group(2))
    for name in sorted(there):
        print(f"{100 * reached[name] / there[name]:5.1f} %  {reached[name]:5} of {there[name]:5}  {name}")
    total = sum(there.values())
    if not total:
        sys.exit("no function of ours was seen")
    print(f"{100 * sum(reached.values()) / total:5.1f} %  {sum(reached.values()):5} of {total:5}  all of these")


main(sys.argv[1], sys.argv[2:])
