"""`msa cache verify` and `msa cache repair`: find damage in a store, and remove it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from msa import catalog
from msa.commands.console import as_json, confirm, count, note, say
from msa.commands.options import DryRunOption, FolderArgument, FolderOption, JsonOption, YesOption, folder_of
from msa.commands.progress import Bar

REPAIR = "`msa cache repair --dry-run` lists the remedies"


def verify(
    store: FolderArgument = None,
    store_: FolderOption = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also check each chunk's checksum and each number, and read all with zarr-python."),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Check every file of a store: size, SHA-256 and content.

    Each problem names the samples that it affects. The exit code is 1 if there are problems.
    """
    from msa.cache.maintain.verify import check_store

    result = check_store(folder_of(store or store_), deep, Bar())
    if json_:
        as_json([asdict(problem) for problem in result.problems])
    else:
        print_problems(result.path, result.problems, result.remarks)
    raise typer.Exit(code=bool(result.problems))


def repair(
    store: FolderArgument = None,
    store_: FolderOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json_: JsonOption = False,
) -> None:
    """Drop damaged samples and print how to extract them again.

    Every intact sample is kept. Damaged files are set aside; `msa cache gc` deletes them later.
    """
    from msa.cache.maintain import repair as repairing

    plan = repairing.plan(folder_of(store or store_), Bar(), catalog.names("dataset"))
    if json_:
        as_json({"steps": [asdict(step) for step in plan.steps], "commands": plan.commands})
    else:
        print_repair(plan.report.path, plan.steps, plan.commands)
    if dry_run or not plan.steps:
        return
    if not yes:
        confirm("apply these steps?", err=json_)
    left = repairing.carry_out(plan, Bar())
    if not json_:
        print_problems(left.path, left.problems, left.remarks, "run the commands above" if plan.commands else REPAIR)
    raise typer.Exit(code=bool(left.problems))


def print_problems(store: Any, problems: Sequence[Any], remarks: Sequence[Any], then: str = REPAIR) -> None:
    """Print the problems and remarks of a check. `then`: what to do about problems."""
    for problem in problems:
        say(str(problem))
    for remark in remarks:
        note(str(remark))
    result = f"{count(len(problems), 'problem')}; {then}" if problems else "OK: no problems found"
    say(f"{store}: {result}")


def print_repair(store: Any, steps: Sequence[Any], commands: Sequence[str]) -> None:
    """Print the steps of a repair, and the commands to run after it."""
    for step in steps:
        say(str(step))
    if not steps:
        say(f"{store}: nothing to repair")
    for command in commands:
        note(f"then extract again what was dropped or is missing: {command}")
