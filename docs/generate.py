"""What the documentation says about the code, taken from the code: the tables of README.md and docs/commands.md.

`make docs` writes them; `tests/test_docs.py` fails while they say something else than the code.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from msa import catalog, cli
from msa.extract import presets
from msa.fuse.train.model import declared
from msa.types import Modality

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def main() -> None:
    """Write every generated part, and say which files changed."""
    for path, text in generated().items():
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8", newline="\n")
            print(f"wrote {path.relative_to(ROOT)}")


def generated() -> dict[Path, str]:
    """Every file with generated parts, as it should be."""
    marked = [
        path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.name != "commands.md"
    ]
    filled = {path: fill(path.read_text("utf-8")) for path in marked}
    return {**filled, ROOT / "docs" / "commands.md": commands()}


def fill(text: str) -> str:
    """A document with the table of each `<!-- table:NAME -->` put between its markers."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", text)


def datasets() -> str:
    """What can be read, and on which terms."""
    rows = []
    for name, line in catalog.describe("dataset").items():
        source = catalog.load("dataset", name).SOURCE
        home = f"[`{name}`]({source.home})" if source.home.startswith("http") else f"`{name}`"
        rows.append([home, line, source.licence])
    return table(["`--dataset`", "description", "licence, as its home states it"], rows)


def backbones() -> str:
    """What can encode."""
    rows = []
    for name, line in catalog.backbones().items():
        family, _, variant = name.partition(".")
        spec = catalog.load("backbone", family).SPECS[variant]
        weights = f"`{spec.weights}`" if spec.weights else "none needed"
        rows.append([f"`{name}`", spec.modality, line, weights, spec.licence])
    rows.append(["`hf:ORG/NAME`, `hf:FOLDER`", "text, audio", "any encoder of transformers", "those named", "its own"])
    rows.append(["`timm:NAME`, `timm:NAME@FILE`", "image", "any model of timm", "those named", "its own"])
    return table(["backbone", "encodes", "description", "weights", "licence"], rows)


def choices() -> str:
    """Which backbones a preset stands for."""
    modalities = [m for m in Modality if any(m in chosen for chosen in presets.PRESETS.values())]
    rows = []
    for name, of in presets.PRESETS.items():
        rows.append([f"`{name}`", *(f"`{of[m]}`" if m in of else "-" for m in modalities)])
    return table(["`--preset`", *modalities], rows)


def heads() -> str:
    """What can be trained."""
    rows = []
    for name, line in catalog.describe("head").items():
        known = declared(catalog.load("head", name)).presets
        rows.append([f"`{name}`", line, ", ".join(f"`{preset}`" for preset in known)])
    return table(["`--model`", "description", "`--preset`"], rows)


def formats() -> str:
    """What can be imported, and what exported."""
    rows = []
    for name, line in catalog.describe("format").items():
        written = "in and out" if hasattr(catalog.load("format", name), "write") else "in"
        rows.append([f"`{name}`", line, written])
    return table(["format", "description", ""], rows)


TABLES = {"datasets": datasets, "backbones": backbones, "presets": choices, "heads": heads, "formats": formats}


def commands() -> str:
    """Every command with its help, arguments and options."""
    parts = ["# Commands", "<!-- Written by `make docs` from the commands themselves: change msa/commands instead. -->"]
    for name, command in walk("msa", typer.main.get_command(cli.app)):
        parts += [f"## {name}", *str(command.help).split("\n\n")]
        rows = [[_called(p), _meaning(p), _default(p)] for p in command.params if p.name not in SHELL]
        if rows:
            parts.append(table(["", "description", "default"], rows).strip())
        if below := getattr(command, "commands", {}):
            parts.append("Commands: " + ", ".join(f"[{word}](#{anchor(f'{name} {word}')})" for word in below))
    return "\n\n".join(parts) + "\n"


SHELL = ("install_completion", "show_completion")  # typer's own


def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A command and all below it, with their full names."""
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from walk(f"{name} {word}", below)


def anchor(heading: str) -> str:
    """The fragment that leads to a heading, as the usual renderers of Markdown make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _called(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in parameter.opts)


def _meaning(parameter: Any) -> str:
    return str(parameter.help) + (" May be given several times." if getattr(parameter, "multiple", False) else "")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.default in (None, False, ()) else f"`{parameter.default}`"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
