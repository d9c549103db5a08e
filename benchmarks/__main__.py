"""Run every benchmark, or those named: `python -m benchmarks store`."""

import sys
from importlib import import_module
from pathlib import Path

KNOWN = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))

if unknown := set(sys.argv[1:]) - set(KNOWN):
    sys.exit(f"there is no benchmark {', '.join(sorted(unknown))}; known: {', '.join(KNOWN)}")
for name in sys.argv[1:] or KNOWN:
    import_module(f"benchmarks.{name}").main()
