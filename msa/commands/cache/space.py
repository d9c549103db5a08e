"""`msa cache rm`, `gc` and `compact`: free space in a store."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from msa.commands.console import as_json, confirm, count, say, size, warn
from msa.commands.options import DryRunOption, FolderArgument, FolderOption, JsonOption, YesOption, open_folder
from msa.commands.progress import Bar
from msa.names import shell_command


def rm(
    dataset: Annotated[str | None, typer.Option(help="Dataset to remove, with all its views.")] = None,
    view: Annotated[str | None, typer.Option(help="Id of the view to remove; `msa cache ls` lists them.")] = None,
    store: FolderOption = None,
    now: Annotated[
        bool,
        typer.Option("--now", help="Delete the data at once, without a way back; what a tag needs is kept."),
    ] = False,
    yes: YesOption = False,
) -> None:
    """Remove a dataset or a view from a store.

    `msa cache gc` frees its space later; until then `msa cache rollback` brings it back.
    """
    from msa.cache.maintain.remove import remove

    if (dataset is None) == (view is None):
        raise typer.BadParameter("name either --dataset or --view")
    opened = open_folder(store)
    if not yes:
        confirm(f"remove {dataset or view} from {opened.path}?")
    before = opened.manifest.generation
    print_removed(str(dataset or view), opened.path, before, remove(opened, dataset=dataset, view=view, now=now))


def gc(
    store: FolderArgument = None,
    store_: FolderOption = None,
    grace: Annotated[
        str, typer.Option(help="Keep generations that were the newest within this time: 24h, 7d, 30m, 0.")
    ] = "24h",
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json_: JsonOption = False,
) -> None:
    """Delete data that only old generations need.

    Kept are the newest generation, tagged ones, those that a reader may have opened within the grace period, and
    segments that are being written. Samples that a killed run had committed are published first; its unfinished files
    are deleted.
    """
    from msa.cache.maintain import gc as collecting
    from msa.cache.write import recovery

    opened, seconds = open_folder(store or store_), collecting.seconds(grace)
    plan, freed = collecting.make_plan(opened.path, seconds), 0
    if not json_:
        print_plan(plan)
        for line in recovery.silent(opened.path):
            warn(line)
    if not dry_run and (plan.garbage or plan.left):
        if not yes:
            confirm(f"collect {opened.path}?", err=json_)
        plan, freed = collecting.collect(opened, seconds)
    if json_:
        as_json(asdict(plan) | {"freed": freed})
    else:
        print_collected(plan, freed, dry_run)


def compact(
    view: Annotated[
        str | None, typer.Option(help="Name or id of one view; `msa cache ls` lists them. Default: all views.")
    ] = None,
    store: FolderOption = None,
    dry_run: DryRunOption = False,
    json_: JsonOption = False,
) -> None:
    """Merge many small segments of a view into few large ones.

    Kills and job arrays leave many small segments. Every hidden state keeps its bits. Readers can use the old segments
    until `msa cache gc` deletes them.
    """
    from msa.cache.maintain.compact import compact as rewrite

    results = rewrite(open_folder(store), view, Bar(), dry_run)
    if json_:
        as_json([asdict(result) for result in results])
    else:
        print_compacted(results, dry_run)


def print_removed(what: str, store: Any, generation: int, result: Any) -> None:
    """Print what `msa cache rm` freed. `generation`: the newest one before the removal."""
    say(f"removed {what}" + (f", {size(result.freed)} freed" if result.freed else ""))
    if result.later and result.tags:
        say(f"  {size(result.later)} kept: used by tag {', '.join(result.tags)}")
    elif result.later:
        say(f"  `msa cache gc` frees {size(result.later)} after 24 hours; until then, to undo:")
        say(f"  {shell_command('msa', 'cache', 'rollback', generation, '--store', store)}")


def print_plan(plan: Any) -> None:
    """Print what `msa cache gc` keeps and what it can delete."""
    recent = [number for number, why in plan.kept.items() if why == "recent"]
    for number, why in plan.kept.items():
        if number not in recent:
            say(f"keep generation {number}: {why}")
    if recent:
        some = f"generation {recent[0]}" if len(recent) == 1 else f"{len(recent)} generations from {recent[0]} on"
        say(f"keep {some}: the newest within the grace period, so a reader may have opened it")
    for view, number in plan.left.items():
        say(f"publish {count(number, 'sample')} of killed runs in view {view}")
    for what in dict.fromkeys(item.what for item in plan.garbage):
        sizes = [item.nbytes for item in plan.garbage if item.what == what]
        kind = "file or folder" if what == "unfinished" else "folder"
        items = f"{len(sizes)} files or folders" if kind != "folder" and len(sizes) > 1 else count(len(sizes), kind)
        say(f"delete {what}: {items}, {size(sum(sizes))}")


def print_collected(plan: Any, freed: int, dry_run: bool) -> None:
    """Print what `msa cache gc` freed."""
    for line in plan.damaged:
        warn(line)
    if dry_run:
        say(f"{size(plan.nbytes)} would be freed; nothing was deleted")
    else:
        say(f"{size(freed)} freed" if freed else "nothing to free")


def print_compacted(results: Sequence[Any], dry_run: bool) -> None:
    """Print the segments of each view before and after."""
    for result in results:
        before, after = (
            f"{count(state.segments, 'segment')} with {count(state.shards, 'shard')}, {size(state.nbytes)}"
            for state in (result.before, result.after)
        )
        say(f"{result.label}: {before}, {'would become' if dry_run else 'became'} {after}")
    if not results:
        say("nothing to compact: the segments are few and their shards full")
    elif not dry_run:
        say("`msa cache gc` frees the old segments after 24 hours")
