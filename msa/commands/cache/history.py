"""`msa cache log`, `diff`, `tag` and `rollback`: the generations of a store."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from msa.commands.console import as_json, confirm, say, show, size
from msa.commands.options import FolderOption, JsonOption, YesOption, open_folder


def log(
    store: FolderOption = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many generations to print.")] = 20,
    json_: JsonOption = False,
) -> None:
    """List the generations of a store, newest first.

    Each row says who changed what and when, and whether the generation can still be read.
    """
    from msa.cache.maintain import history

    generations = list(history.log(open_folder(store).path, number))
    if json_:
        as_json([asdict(generation) | {"told": generation.lines} for generation in generations])
    else:
        print_log(generations)


def diff(
    before: Annotated[str, typer.Argument(help="A generation or a tag.", show_default=False)],
    after: Annotated[str, typer.Argument(help="Another generation or tag.", show_default=False)],
    store: FolderOption = None,
    json_: JsonOption = False,
) -> None:
    """Compare two generations of a store.

    Prints the datasets, views, samples, segments and bytes that differ.
    """
    from msa.cache.maintain import history

    changes = history.diff(open_folder(store).path, before, after)
    if json_:
        as_json([asdict(change) for change in changes])
    else:
        print_changes(changes)


def tag(
    name: Annotated[str | None, typer.Argument(help="Name of the tag, such as paper-v1. Default: list all.")] = None,
    generation: Annotated[
        str | None, typer.Argument(help="Generation or tag that gets the name. Default: the newest generation.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the tag; its generation stays.")] = False,
    store: FolderOption = None,
) -> None:
    """Name a generation of a store, or list the tags.

    `msa cache gc` keeps the data of tagged generations.
    """
    from msa.cache.format import tags
    from msa.cache.maintain import history

    path = open_folder(store).path
    if name is None:
        if delete:
            raise typer.BadParameter("name the tag to delete")
        return show("", ["tag", "generation"], list(tags.read(path).items()), 1)
    if delete:
        history.untag(path, name)
        return say(f"tag {name} was deleted")
    return say(f"tag {name} now names generation {history.tag(path, name, generation)}")


def rollback(
    generation: Annotated[
        str, typer.Argument(help="A generation or a tag; `msa cache log` lists them.", show_default=False)
    ],
    store: FolderOption = None,
    yes: YesOption = False,
) -> None:
    """Restore the content of an older generation.

    The restored content becomes a new generation, so a rollback can itself be rolled back.
    """
    from msa.cache.format import tags
    from msa.cache.maintain import history

    opened = open_folder(store)
    path, wanted = opened.path, tags.generation_of(opened.path, generation)
    print_changes(history.diff(path, opened.manifest.generation, wanted))
    if not yes:
        confirm(f"apply this to {path}?")
    made = history.rollback(path, generation)
    say(f"generation {made.generation} has the content of generation {wanted}")


def print_log(generations: Sequence[Any]) -> None:
    """Print the changes of each generation."""
    rows: list[list[object]] = []
    for generation in generations:
        state = ", ".join([*generation.tags, *([] if generation.whole else ["collected"])])
        head = [generation.number, generation.created, generation.creator, state]
        rows += [[*(["", "", "", ""] if i else head), line] for i, line in enumerate(generation.lines)]
    show("", ["generation", "created", "creator", "tags", "changes"], rows)


def print_changes(changes: Sequence[Any]) -> None:
    """Print a line for each dataset and view that differs."""
    for change in changes:
        segments = f"{change.segments[0]} -> {change.segments[1]} segments, " if any(change.segments) else ""
        say(f"{change}  ({segments}{'-' if change.nbytes < 0 else '+'}{size(abs(change.nbytes))})")
    if not changes:
        say("no differences")
