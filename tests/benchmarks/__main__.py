"""``python -m tests.benchmarks [NAME …]``: run benchmarks one after another; ``--list`` names them."""

import argparse
import ast
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main():
    found = {path.stem.removeprefix("bench_"): path for path in sorted(FOLDER.glob("bench_*.py"))}
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help="which; all when none is named")
    options.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    asked = options.parse_args()
    unknown = set(asked.names) - found.keys()
    if unknown:
        options.error(f"no benchmark is named {', '.join(sorted(unknown))}; there are {', '.join(found)}")
    if asked.list:
        for name, path in found.items():
            print(f"{name:12}{about(path)}")
        return 0
    failed = [name for name in asked.names or found if not succeeds(name)]
    if failed:
        print(f"did not end as they should: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def about(path):
    """Return the first line that *path* says of itself."""
    return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]


def succeeds(name):
    """Run one benchmark; return whether it came to its end (not whether its figures please)."""
    command = [sys.executable, "-m", f"tests.benchmarks.bench_{name}"]  # a process of its own: fresh threads and memory
    return subprocess.run(command, cwd=FOLDER.parents[1], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
