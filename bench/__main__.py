"""Runs the benches named on the command line (all of them without a name), one process each, one table each."""

import os
import subprocess
import sys
from pathlib import Path


def names() -> list[str]:
    """Every bench of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def main(wanted: list[str]) -> int:
    """Run them in turn; the exit code says whether one failed."""
    known = names()
    if unknown := [name for name in wanted if name not in known]:
        print(f"bench: unknown {', '.join(unknown)}; choose from {', '.join(known)}", file=sys.stderr)
        return 2
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}. Ratios hold; seconds are this machine's.\n")
    failed = []
    for name in wanted or known:
        print(f"## {name}: python -m bench.{name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode:
            failed.append(name)
        print(flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
