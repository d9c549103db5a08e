"""`msa cache`: the commands that work on a store, one module per task."""

import typer

from msa.commands.cache import checks, contents, exchange, history, sharing, space

app = typer.Typer(help="Inspect, check, share and clean a store.", no_args_is_help=True)
app.command()(contents.ls)
app.command()(contents.info)
app.command()(checks.verify)
app.command()(checks.repair)
app.command()(space.rm)
app.command()(history.log)
app.command()(history.diff)
app.command()(history.tag)
app.command()(history.rollback)
app.command()(space.gc)
app.command()(space.compact)
app.command()(sharing.push)
app.command()(sharing.pull)
app.command()(sharing.merge)
app.command()(sharing.clone)
app.command("import")(exchange.import_)
app.command()(exchange.export)
