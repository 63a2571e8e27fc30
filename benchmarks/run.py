"""Runs every benchmark script in turn, each in its own process.

    python benchmarks/run.py                  all of them
    python benchmarks/run.py kernels          those whose path contains the word
    python benchmarks/run.py kernels --variants    other designs and cuts of the kernels as well

Scripts under benchmarks/kernels need a CUDA device and are passed over without one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
HELPERS = {"run.py", "harness.py", "synthetic.py"}


def scripts(word: str) -> list[Path]:
    """Benchmark scripts whose path below benchmarks/ contains the word, in order."""
    found = [path for path in sorted(HERE.rglob("*.py")) if path.name not in HELPERS]
    return [path for path in found if word in path.relative_to(HERE).as_posix()]


def main() -> None:
    failed = []
    options = [word for word in sys.argv[1:] if word.startswith("--")]
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    for path in scripts(words[0] if words else ""):
        name = path.relative_to(HERE).as_posix()
        if path.parent.name == "kernels" and not torch.cuda.is_available():
            print(f"{name}: passed over, it needs a CUDA device", flush=True)
            continue
        print(f"== {name}", flush=True)
        forwarded = options if path.parent.name == "kernels" else []
        if subprocess.run([sys.executable, path, *forwarded], check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
