"""Run every benchmark but the long ones, or those named: `python -m benchmarks store`."""

import sys
from importlib import import_module
from pathlib import Path

KNOWN = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
LONG = {"families", "mutations"}  # an hour or two; the former writes a page of the documentation

if unknown := set(sys.argv[1:]) - set(KNOWN):
    sys.exit(f"there is no benchmark {', '.join(sorted(unknown))}; known: {', '.join(KNOWN)}")
for name in sys.argv[1:] or [name for name in KNOWN if name not in LONG]:
    import_module(f"benchmarks.{name}").main()
