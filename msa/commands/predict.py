"""`msa predict`: raw input through a run's recipe and its head."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from msa.commands.console import as_json, note, show, warn
from msa.commands.options import DeviceOption, JsonOption

SHOWN = 20  # rows of --table that are printed; the CSV file has all


def predict(
    run: Annotated[Path, typer.Option(help="Run folder of `msa fuse train`.")],
    text: Annotated[str | None, typer.Option(help="The text.")] = None,
    image: Annotated[Path | None, typer.Option(help="Image file.")] = None,
    audio: Annotated[Path | None, typer.Option(help="Audio file.")] = None,
    video: Annotated[Path | None, typer.Option(help="Video file: its sound, its faces, or both are used.")] = None,
    table: Annotated[
        Path | None, typer.Option(help="CSV or JSONL file with many samples: id, text, image, audio, ...")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of --table: columns=text:Tweet,label:Mood."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="CSV file to write for --table. Default: TABLE-predictions.csv in the current folder."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=NAME",
            help="Local path of an encoder's weights, for example text=hf:FOLDER. Default: where extraction read them.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Predict from raw input with a trained run.

    The input passes through the same recipe that the run was trained on. With --table, one row is written to a CSV file
    for each row of the table. The exit code is 1 if a sample has no prediction.
    """
    from msa import predict as predicting
    from msa.config import by_modality

    if table and (text is not None or image or audio or video):
        raise typer.BadParameter("give either --table or single inputs")
    if (out or set_) and not table:
        raise typer.BadParameter(f"{'--out' if out else '--set'} needs --table")
    if table:
        samples, dropped = predicting.from_table(table, set_ or ())
    else:
        samples, dropped = [predicting.sample(text, image, audio, video)], []
    if remark := predicting.collapsed(run):
        warn(remark)
    predictions = predicting.predict(run, samples, device, by_modality(weights or (), "--weights")) + dropped
    if table:
        out = out or Path(f"{table.stem}-predictions.csv")
        predicting.write_csv(predictions, out)
    if json_:
        as_json([asdict(prediction) for prediction in predictions])
    else:
        print_predictions(predictions[:SHOWN] if table else predictions)
    missing = sum(not prediction.label for prediction in predictions)
    if out:
        note(f"{len(predictions)} rows, {missing} without a prediction: {out}")
    if missing:
        raise typer.Exit(1)


def print_predictions(predictions: Sequence[Any]) -> None:
    """Print a row for each prediction."""
    names = list(next((p.output for p in predictions if p.output), {}))
    columns, rows = ["id", "prediction", *names, "modalities", "notes"], []
    for p in predictions:
        values = [f"{p.output[name]:.3f}" if p.output else "-" for name in names]
        rows.append([p.id, p.label or "-", *values, "+".join(p.used), "; ".join(p.notes)])
    if not any(p.notes for p in predictions):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    show("", columns, rows)
