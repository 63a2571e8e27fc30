"""How long `indexer-lab --help` takes to answer, beside an interpreter that does nothing.

python benchmarks/start_up.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

HELP = [sys.executable, "-m", "indexer_lab", "--help"]
NOTHING = [sys.executable, "-c", "pass"]


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    pairs = [(seconds(HELP), seconds(NOTHING)) for _ in range(11)][1:]
    shown, empty = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(help_ / nothing for help_, nothing in pairs)
    print(f"indexer-lab --help  {shown:.3f} s")
    print(f"python -c pass      {empty:.3f} s")
    print(f"ratio               {ratio:.1f}")


if __name__ == "__main__":
    main()
