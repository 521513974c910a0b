"""Follows the README's tour word for word in a copy of examples/tour, and compares what is printed.

Numbers differ from run to run, and so does the order of lines that happen at once: digits are folded,
and the lines of one command are compared as a set.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
readme = open(os.path.join(root, "README.md"), encoding="utf-8").read()


def fold(line):
    line = re.sub(r"\d+(\.\d+)?( (B|KiB|MiB|GiB|TiB|s|min))?\b", "N", line)
    return re.sub(r" +", " ", line).strip()


def commands(block):
    found = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


work = tempfile.mkdtemp(prefix="flocker-tour.")
tour = os.path.join(work, "tour")
shutil.copytree(os.path.join(root, "examples", "tour"), tour)
environment = dict(os.environ, NO_COLOR="1", FLOCKER_STATE_DIR=os.path.join(work, "state"))
environment["PATH"] = os.path.join(root, "target", "release") + ":" + environment["PATH"]
n_passed = n_failed = 0
try:
    for block in re.findall(r"^```console tour\n(.*?)^```", readme, re.M | re.S):
        for command, expected in commands(block):
            ended = subprocess.run(
                ["bash", "-c", command], cwd=tour, env=environment, timeout=120,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            wanted = sorted(fold(line) for line in expected if line.strip())
            printed = sorted(fold(line) for line in ended.stdout.splitlines() if line.strip())
            # Progress is for who watches: how many such lines there are depends on how long a copy takes.
            wanted = [line for line in wanted if not line.startswith("[")]
            printed = [line for line in printed if not line.startswith("[")]
            if ended.returncode == 0 and wanted == printed:
                n_passed += 1
            else:
                n_failed += 1
                print(f"$ {command}\nended with {ended.returncode} and printed\n{ended.stdout}")
                print("only in the README:", [line for line in wanted if line not in printed])
                print("only printed:", [line for line in printed if line not in wanted])
finally:
    subprocess.run(
        [os.path.join(root, "target", "release", "flocker"), "local", "down", "--delete-data", "--yes"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    shutil.rmtree(work, ignore_errors=True)
print(f"tour: {n_passed} passed, {n_failed} failed")
sys.exit(n_failed > 0 or n_passed == 0)
