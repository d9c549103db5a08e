"""`msa fuse`: the commands that train heads and show results."""

import typer

from msa.commands.fuse import results, sweeps, training

app = typer.Typer(help="Train fusion heads from a store and compare results.", no_args_is_help=True)
app.command()(training.train)
app.command()(sweeps.bench)
app.command()(sweeps.tune)
app.command()(sweeps.reproduce)
app.command("eval")(results.eval_)
app.command("list")(results.list_heads)
app.command("show")(results.show_)
app.command()(results.plot)
