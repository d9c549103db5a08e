"""Tables of runs: every figure with its baselines, its spread and the pairing it was measured under."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msa.errors import ConfigError
from msa.names import printable, shell_command

if TYPE_CHECKING:
    from msa.fuse.runs.run import Run

TITLES = {
    "accuracy": "Acc",
    "f1_weighted": "F1\nweighted",
    "f1_macro": "F1\nmacro",
    "auroc_weighted": "AUROC\nweighted",
    "auroc_macro": "AUROC\nmacro",
    "mean_accuracy": "Acc\nmean",
    "mean_weighted_accuracy": "Weighted Acc\nmean",
    "mean_f1": "F1\nmean",
    "mae": "MAE",
    "corr": "Corr",
    "acc2_non0": "Acc-2\nnon0",
    "f1_non0": "F1\nnon0",
    "acc2_has0": "Acc-2\nhas0",
    "f1_has0": "F1\nhas0",
    "acc2": "Acc-2",
    "f1": "F1",
    "acc3": "Acc-3",
    "acc5": "Acc-5",
    "acc7": "Acc-7",
}


@dataclass(frozen=True)
class Sheet:
    """A table ready to be printed, and the remarks that belong under it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()


def sheet(run: "Run", each_seed: bool = True) -> Sheet:
    """Return the test results of a finished run.

    Raises ConfigError where it is unfinished, or its pairing leaks and the baseline of what was drawn is missing.
    """
    from msa.fuse import metrics
    from msa.fuse.data import pairing
    from msa.fuse.experiments.sweep import baselines
    from msa.fuse.runs.run import drawn_only

    results = run.metrics
    if not results:
        raise ConfigError(
            f"{run.folder} is not finished", fix=shell_command("msa", "fuse", "train", "--resume", run.folder)
        )
    protocol, drawn = run.facts.protocol, run.facts.drawn
    shown = {run.model.name: results, **baselines(run)}
    if pairing.is_leaky(protocol) and drawn and drawn_only(drawn) not in shown:
        raise ConfigError(
            f"{run.folder}: pairing {protocol!r} leaks the label through the {' and '.join(drawn)}, "
            f"and the row {drawn_only(drawn)!r} is missing",
            fix=f"{shell_command('msa', 'fuse', 'train', '--like', run.folder)}: that row is then made by itself",
        )
    names = metrics.headline(run.task)
    rows = [_seed_row(row, names) for row in results["seeds"]] if each_seed and len(results["seeds"]) > 1 else []
    for title, scores in shown.items():
        rows.append(mean_row(title, scores, names))
        rows += [mean_row(f"  on {name}", part, names) for name, part in scores.get("by_corpus", {}).items()]
    columns = ("", *(TITLES[name] for name in names))
    title, remarks = f"{run.title}, {results['test_samples']} test samples", _remarks(run, shown)
    return Sheet(title, columns, tuple(rows), tuple(remarks))


def _seed_row(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    return (f"seed {row['seed']}", *(number(row["values"][name]) for name in names))


def mean_row(title: str, scores: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    cells = []
    for name in names:
        sd = scores.get("sd", {}).get(name)
        low_high = scores.get("interval", {}).get(name)
        cell = number(scores["values"][name]) + (f" ± {sd:.3f}".replace(" 0.", " .") if sd is not None else "")
        cells.append(cell + (f"\n[{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else ""))
    return (title, *cells)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def interval_remark(scores: Mapping[str, Any]) -> str:
    """Return what the interval beside a figure is, and over how many groups."""
    groups, n = scores.get("groups"), scores["test_samples"]
    if groups is None:
        return "[95 % bootstrap interval over single test samples, as an older msa drew them]"
    if groups == n:
        return "[95 % bootstrap interval over test samples]"
    return f"[95 % bootstrap interval over groups of test samples: videos, speakers, ...; {n} samples in {groups}]"


def rough_remarks(scores: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """Yield a warning of intervals over few groups; of each dataset too, where there are several."""
    from msa.fuse import metrics

    groups, of = scores.get("groups"), f"{name}: " if name else ""
    if groups == 1:
        yield f"{of}all test samples are of one group: there is no interval, and no difference is told from chance"
    elif groups is not None and groups < metrics.FEW:
        yield f"{of}ROUGH interval: {groups} groups of test samples are few, and it is likely too narrow"
    for corpus, part in scores.get("by_corpus", {}).items():
        yield from rough_remarks(part, corpus)


def _remarks(run: "Run", shown: Mapping[str, Mapping[str, Any]]) -> list[str]:
    from msa.fuse.data import pairing

    scores_of_run, protocol = run.metrics, run.facts.protocol
    several = "mean ± sd over seeds " if len(scores_of_run["seeds"]) > 1 else ""
    remarks = [several + interval_remark(scores_of_run), *rough_remarks(scores_of_run)]
    if protocol:
        remarks.append(f"pairing: {protocol}")
    if pairing.is_leaky(protocol) and run.facts.drawn:
        drawn = " and ".join(run.facts.drawn)
        remarks.append(f"LEAKY pairing: the {drawn} was chosen by the label; compare with the {drawn}-only row")
    for row in scores_of_run["seeds"]:
        if row["collapsed"]:
            remarks.append(f"seed {row['seed']} COLLAPSED: one answer to every validation sample, after a restart too")
        elif row["restarted_at"]:
            remarks.append(f"seed {row['seed']} collapsed at first and was restarted at lr {row['restarted_at']:g}")
    for title, scores in shown.items():
        if scores["seeds"]:  # a constant predictor needs no note that it is constant
            remarks += [f"{title}: {text}" for text in scores["notes"]]
            remarks += [
                f"{title} on {n}: {text}" for n, part in scores.get("by_corpus", {}).items() for text in part["notes"]
            ]
    return [*remarks, *_verdict(run, shown)]


def _verdict(run: "Run", shown: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line where a head does not beat the linear probe."""
    from msa.fuse import metrics

    if run.model.name == "probe":
        return []
    name, sign = metrics.decisive(run.task)
    ours, probe = (of.get("values", {}).get(name) for of in (run.metrics, shown.get("probe", {})))
    if ours is None or probe is None or sign * ours > sign * probe:
        return []
    title = in_line(TITLES[name])
    return [f"{run.model.name} does not beat the linear probe here ({title} {ours:.3f} against {probe:.3f})"]


def compared_sheet(runs: Sequence["Run"]) -> Sheet:
    """Return several finished runs in one table: what differs between them, their scores, and each one's probe."""
    from msa.fuse import metrics
    from msa.fuse.experiments import compare
    from msa.fuse.experiments.sweep import baselines

    finished = [run for run in runs if run.metrics]
    if not finished:
        raise ConfigError(
            f"none of {len(runs)} runs is finished",
            fix=shell_command("msa", "fuse", "train", "--resume", runs[0].folder),
        )
    names = list(dict.fromkeys(name for run in finished for name in metrics.headline(run.task)))
    differing, values, same = compare.differences(finished)
    decisive = list(dict.fromkeys(metrics.decisive(run.task)[0] for run in finished))
    rows = []
    for run, cells in zip(finished, values, strict=True):
        scores = {"values": dict.fromkeys(names), "sd": {}, "interval": {}} | dict(run.metrics)
        scores["values"] = dict.fromkeys(names) | scores["values"]
        probe = baselines(run).get("probe", {}).get("values", {})
        rows.append(
            (
                *mean_row(run.folder.name, scores, names)[:1],
                *cells,
                *mean_row("", scores, names)[1:],
                *(number(probe.get(name)) for name in decisive),
            )
        )
    columns = ("run", *differing, *(TITLES[n] for n in names), *(f"probe's\n{in_line(TITLES[n])}" for n in decisive))
    title = f"{len(finished)} runs" + "".join(
        f", {n} {same[n].partition('@')[0]}" for n in ("model", "data") if n in same
    )
    return Sheet(title, columns, tuple(rows), tuple(_compared_remarks(runs, finished)))


def _compared_remarks(runs: Sequence["Run"], finished: Sequence["Run"]) -> Iterator[str]:
    yield "mean ± sd over the seeds of each run, on its test samples; [95 % bootstrap interval]"
    if len({run.metrics["test_samples"] for run in finished}) > 1:
        numbers = ", ".join(f"{run.folder.name} {run.metrics['test_samples']}" for run in finished)
        yield f"NOT COMPARABLE as they stand: the runs have different test samples ({numbers})"
    for run in runs:
        if run not in finished:
            yield f"{run.folder.name} is not finished: {shell_command('msa', 'fuse', 'train', '--resume', run.folder)}"
    for run in finished:
        if fallen := [str(row["seed"]) for row in run.metrics["seeds"] if row["collapsed"]]:
            yield f"{run.folder.name}: COLLAPSED to one answer with seeds {', '.join(fallen)}"


def in_line(title: str) -> str:
    """Return a column's title for use in a sentence."""
    return title.replace("\n", " ")


def markdown(sheet: Sheet) -> str:
    """Return the table in Markdown; a name that holds a | or a line end stays one cell."""
    lines = [f"**{_in_document(sheet.title)}**", "", "| " + " | ".join(map(_in_document, sheet.columns)) + " |"]
    lines.append("|---|" + "---:|" * (len(sheet.columns) - 1))
    lines += ["| " + " | ".join(map(_in_document, row)) + " |" for row in sheet.rows]
    return "\n".join([*lines, "", *(f"- {_in_document(remark)}" for remark in sheet.remarks)])


def _in_document(text: str) -> str:
    """Return a text escaped for a line of Markdown: neither a cell of its own, nor a link, an image or a tag."""
    plain = printable(in_line(text.strip()))
    return re.sub(r"[\\|<]|!?\[(?=[^\]]*\]\()", lambda match: f"\\{match[0]}", plain)
