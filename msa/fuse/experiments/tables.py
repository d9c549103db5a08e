"""Runs as tables: every figure with its yardsticks, its spread and the pairing it was measured under."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """The test results of a finished run. Raises ConfigError for an unfinished one, and for one whose pairing leaks
    and that lacks the row of what was drawn alone."""
    from msa.fuse import metrics
    from msa.fuse.data import pairing
    from msa.fuse.experiments.sweep import beside
    from msa.fuse.runs.run import drawn_only

    found = run.metrics
    if not found:
        raise ConfigError(
            f"{run.folder} is not finished", fix=shell_command("msa", "fuse", "train", "--resume", run.folder)
        )
    protocol, drawn = run.facts.protocol, run.facts.drawn
    shown = {run.model.name: found, **beside(run)}
    if pairing.is_leaky(protocol) and drawn and drawn_only(drawn) not in shown:
        raise ConfigError(
            f"{run.folder}: pairing {protocol!r} leaks the label through the {' and '.join(drawn)}, "
            f"and the row {drawn_only(drawn)!r} is missing",
            fix=f"{shell_command('msa', 'fuse', 'train', '--like', run.folder)}: that row is then made by itself",
        )
    names = metrics.headline(run.task)
    rows = [_seed_row(row, names) for row in found["seeds"]] if each_seed and len(found["seeds"]) > 1 else []
    for title, scores in shown.items():
        rows.append(_mean_row(title, scores, names))
        rows += [_mean_row(f"  on {name}", part, names) for name, part in scores.get("by_corpus", {}).items()]
    columns = ("", *(TITLES[name] for name in names))
    title, remarks = f"{run.title}, {found['test_samples']} test samples", _remarks(run, shown)
    return Sheet(title, columns, tuple(rows), tuple(remarks))


def _seed_row(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    return (f"seed {row['seed']}", *(_number(row["values"][name]) for name in names))


def _mean_row(title: str, found: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    cells = []
    for name in names:
        sd = found.get("sd", {}).get(name)
        low_high = found.get("interval", {}).get(name)
        cell = _number(found["values"][name]) + (f" ± {sd:.3f}".replace(" 0.", " .") if sd is not None else "")
        cells.append(cell + (f"\n[{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else ""))
    return (title, *cells)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(found: Mapping[str, Any]) -> str:
    """What the interval beside a figure is: of how many groups."""
    groups, n = found.get("groups"), found["test_samples"]
    if groups is None:
        return "[95 % bootstrap interval over single test samples, as an older msa drew them]"
    if groups == n:
        return "[95 % bootstrap interval over test samples]"
    return f"[95 % bootstrap interval over groups of test samples: videos, speakers, ...; {n} samples in {groups}]"


def _rough(found: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """What has to be said of an interval where groups are few; of each corpus too, where there are several."""
    from msa.fuse import metrics

    groups, of = found.get("groups"), f"{name}: " if name else ""
    if groups == 1:
        yield f"{of}all test samples are of one group: there is no interval, and no difference is told from chance"
    elif groups is not None and groups < metrics.FEW:
        yield f"{of}ROUGH interval: {groups} groups of test samples are few, and it is likely too narrow"
    for corpus, part in found.get("by_corpus", {}).items():
        yield from _rough(part, corpus)


def _remarks(run: "Run", shown: Mapping[str, Mapping[str, Any]]) -> list[str]:
    from msa.fuse.data import pairing

    found, protocol = run.metrics, run.facts.protocol
    several = "mean ± sd over seeds " if len(found["seeds"]) > 1 else ""
    remarks = [several + _interval(found), *_rough(found)]
    if protocol:
        remarks.append(f"pairing: {protocol}")
    if pairing.is_leaky(protocol) and run.facts.drawn:
        drawn = " and ".join(run.facts.drawn)
        remarks.append(f"LEAKY pairing: the {drawn} was chosen by the label; compare with the {drawn}-only row")
    for row in found["seeds"]:
        if row["collapsed"]:
            remarks.append(f"seed {row['seed']} COLLAPSED: one answer to every validation sample, after a restart too")
        elif row["restarted_at"]:
            remarks.append(f"seed {row['seed']} collapsed at first and was restarted at lr {row['restarted_at']:g}")
    for title, scores in shown.items():
        if scores["seeds"]:  # of a constant predictor nobody needs to be told that it is constant
            remarks += [f"{title}: {text}" for text in scores["notes"]]
            remarks += [
                f"{title} on {n}: {text}" for n, part in scores.get("by_corpus", {}).items() for text in part["notes"]
            ]
    return [*remarks, *_verdict(run, shown)]


def _verdict(run: "Run", shown: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Said plainly where a head does not beat the linear probe."""
    from msa.fuse import metrics

    if run.model.name == "probe":
        return []
    name, sign = metrics.decisive(run.task)
    ours, probe = (of.get("values", {}).get(name) for of in (run.metrics, shown.get("probe", {})))
    if ours is None or probe is None or sign * ours > sign * probe:
        return []
    title = _in_line(TITLES[name])
    return [f"{run.model.name} does not beat the linear probe here ({title} {ours:.3f} against {probe:.3f})"]


def compared_sheet(runs: Sequence["Run"]) -> Sheet:
    """Several finished runs in one table: what differs between them, their scores, and the probe beside each."""
    from msa.fuse import metrics
    from msa.fuse.experiments import compare
    from msa.fuse.experiments.sweep import beside

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
        probe = beside(run).get("probe", {}).get("values", {})
        rows.append(
            (
                *_mean_row(run.folder.name, scores, names)[:1],
                *cells,
                *_mean_row("", scores, names)[1:],
                *(_number(probe.get(name)) for name in decisive),
            )
        )
    columns = ("run", *differing, *(TITLES[n] for n in names), *(f"probe's\n{_in_line(TITLES[n])}" for n in decisive))
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


def bench_sheet(found: Mapping[str, Any]) -> Sheet:
    """The table of `msa fuse bench`: heads from the best down, then what they are shown beside."""
    names, shown = found["metrics"], []
    for row in found["rows"]:
        shown.append((*_mean_row(row["title"], row, names), _against(row), *_spent(row["cost"])))
        shown += _parts(row, names)
        if printed := row.get("printed"):
            shown.append(("  printed", *(_number(printed.get(name)) for name in names), *[""] * 6))
    for name, scores in found["beside"].items():
        shown.append((*_mean_row(name, scores, names), *[""] * 6))
        shown += _parts(scores, names)
    columns = (
        "",
        *(TITLES[name] for name in names),
        "behind\n(p, Holm)",
        "params",
        "FLOP",
        "step\nof 64",
        "s/epoch",
        "ms, one",
    )
    return Sheet(found["title"], columns, tuple(shown), tuple(_bench_remarks(found)))


def _parts(scores: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Where the test split is of several corpora: the scores on each by itself."""
    parts = scores.get("by_corpus", {}).items()
    return [(*_mean_row(f"  on {name}", part, names), *[""] * 6) for name, part in parts]


def complexity_sheet(title: str, rows: Sequence[Mapping[str, Any]], remark: str) -> Sheet:
    """What heads cost beside what a paper prints of them."""
    columns = ("", "params", "printed", "G mult-adds", "printed", "step of 64", "ms, one", "ms a sample, 64")
    shown = [
        (
            row["name"],
            f"{row['parameters']:,}",
            f"{row['printed']['parameters']:,.0f}",
            f"{row['flops'] / 2e9:.3f}",
            f"{row['printed']['flops'] / 1e9:.3f}",
            f"{row['step_bytes'] / 1e6:,.0f} MB",
            f"{row['latency_ms']:.2f}",
            f"{row['per_sample_ms']:.2f}",
        )
        for row in rows
    ]
    lengths = ", ".join(f"{n} {m}" for m, n in rows[0]["lengths"].items())
    threads = _several(rows[0]["threads"], "thread")
    told = f"one sample of {lengths} steps; times with {threads} of the CPU"
    return Sheet(title, columns, tuple(shown), (told, f"of the paper: {remark}"))


def _against(row: Mapping[str, Any]) -> str:
    if "behind" not in row:
        return "best head" if row.get("best") else "-"
    return f"{row['behind'] + 0.0:.3f}\n({_small(row['p_holm'])})".replace("-0.000", "0.000")


def _small(p: float) -> str:
    return f"p {p:.2f}" if p >= 0.01 else f"p {p:.3f}"


def _spent(cost: Mapping[str, Any]) -> tuple[str, ...]:
    """A row's costs; - for what could not be measured."""
    ways: dict[str, Callable[[float], str]] = {
        "parameters": lambda n: f"{n:,}",
        "flops": _scaled,
        "step_bytes": lambda n: _scaled(n, "B"),
        "seconds_per_epoch": lambda s: f"{s:.2f}",
        "latency_ms": lambda ms: f"{ms:.2f}",
    }
    return tuple(write(cost[name]) if name in cost else "-" for name, write in ways.items())


def _scaled(n: float, what: str = "") -> str:
    """Three digits, and what they count: 154 k, 2.02 MB."""
    unit, *larger = "", "k", "M", "G", "T"
    while n >= 999.5 and larger:
        n, unit, *larger = n / 1000, *larger
    return f"{n:.3g} {unit}{what}".rstrip()


def _several(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _bench_remarks(found: Mapping[str, Any]) -> Iterator[str]:
    best = next(row for row in found["rows"] if row.get("best"))
    several = "mean ± sd over seeds " if len(best["seeds"]) > 1 else ""
    yield several + _interval(best)
    yield from _rough(best)
    for row in found["rows"]:
        if row.get("groups") is None and best.get("groups") is not None:
            yield f"{row['name']}: an older run, whose interval is over single test samples"
        elif row.get("groups") != best.get("groups"):
            yield from _rough({"groups": row["groups"]}, row["name"])
    yield (
        f"behind: the best head less this, in {_in_line(TITLES[found['decisive']])}; p by a paired bootstrap over the "
        "same, adjusted for the number of rows by Holm; the best was chosen on the same test split, which favours it"
    )
    yield from _least_p(found["rows"], best)
    yield from _unbeaten(found)
    yield from _stopping(found["rows"])
    for name, search in found.get("searched", {}).items():
        yield _searched(name, search)
    yield from _costs_told(found)
    yield from found["audits"]
    for row in found["rows"]:
        if "behind" not in row and row is not best:
            yield (
                f"{row['name']}: on the {row['test_samples']} test samples that have its modalities, {best['name']} on "
                f"{best['test_samples']}: not to be compared"
            )
    for what, told in (("collapsed", "COLLAPSED to one answer"), ("restarted", "restarted at a lower rate")):
        if fallen := [f"{row['name']} {_of_seeds(row, what)}" for row in found["rows"] if row[what]]:
            yield f"{told}, with these seeds: {'; '.join(fallen)}"
    for name, reason in found.get("unmeasured", {}).items():
        yield f"{name}: what it costs could not be measured: {reason}"
    for name, reason in found["failed"].items():
        yield f"{name} could not be trained: {reason}"


def _least_p(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> Iterator[str]:
    """Where no difference, however large, could be told from chance, that has to be said."""
    compared = sum("p_holm" in row for row in rows)
    if best.get("groups") and (least := compared * 2.0 ** (1 - best["groups"])) > 0.05:
        yield (
            f"with {_several(best['groups'], 'group')} and {_several(compared, 'comparison')} no p can be below "
            f"{min(least, 1.0):.2f}: this table tells no two rows apart"
        )


def _unbeaten(found: Mapping[str, Any]) -> Iterator[str]:
    """Which heads a probe of the same test samples beats."""
    name, sign = found["decisive"], found["sign"]
    value = lambda row: -float("inf") if row["values"][name] is None else sign * row["values"][name]  # noqa: E731
    heads = [row for row in found["rows"] if not row["yardstick"]]
    probes = [row for row in found["rows"] if row["yardstick"] and row["test_samples"] == heads[0]["test_samples"]]
    if heads and probes:
        first = max(probes, key=value)
        if below := [row["name"] for row in heads if value(row) <= value(first)]:
            which = "no head beats" if len(below) == len(heads) else f"{', '.join(below)}: not better than"
            yield f"{which} {first['name']} ({first['values'][name]:.3f})"


def _stopping(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How long each may train; the papers' patience differs, and a table that hides it would not be of one protocol."""
    limits: dict[tuple[int, int], list[str]] = {}
    for row in rows:
        if row.get("stopping") and not row["yardstick"]:
            limits.setdefault((row["stopping"]["epochs"], row["stopping"]["patience"]), []).append(row["name"])
    if limits:
        usual = max(limits, key=lambda limit: len(limits[limit]))
        rest = [f"{', '.join(names)} {e} and {p}" for (e, p), names in sorted(limits.items()) if (e, p) != usual]
        others = f"; {'; '.join(rest)}" if rest else ""
        yield f"epochs at most, and patience, as each head's file has them: {usual[0]} and {usual[1]}{others}"


def _searched(name: str, search: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in search["settings"].items()) or "the preset's own settings"
    spent = f"{_several(search['trials'], 'trial')}, {search['pruned']} given up early, {search['failed']} failed"
    return f"{name}: tuned on validation ({search['value']:.4f}; {spent}): {settings}"


def _of_seeds(row: Mapping[str, Any], which: str) -> str:
    return "all" if len(row[which]) == len(row["seeds"]) > 1 else ", ".join(map(str, row[which]))


def _costs_told(found: Mapping[str, Any]) -> Iterator[str]:
    """What the costs are of, and on how much of a machine each was taken: times say nothing without."""
    machine = found["machine"]
    places = {(on["device"], on["threads"]) for row in found["rows"] for on in row["cost"].get("epochs_on", ())}
    trained = " or ".join(f"{device}, {_several(threads, 'thread')}" for device, threads in sorted(places))
    at_once = (
        f"{_several(machine['at_once'], 'training')} at once" if machine["at_once"] else "trainings on a dask cluster"
    )
    yield (
        f"costs on {machine['device']}, {_several(machine['threads'], 'thread')}: operations on one sample of median "
        f"length, memory of a training step of 64, latency of a batch of one; seconds of an epoch with {at_once}"
        + (f" ({trained} each)" if trained else "")
    )


def _in_line(title: str) -> str:
    """A column's title in a sentence."""
    return title.replace("\n", " ")


def markdown(sheet: Sheet) -> str:
    """The same table for a document; a name that holds a | or a line end is no more than a cell."""
    lines = [f"**{_in_document(sheet.title)}**", "", "| " + " | ".join(map(_in_document, sheet.columns)) + " |"]
    lines.append("|---|" + "---:|" * (len(sheet.columns) - 1))
    lines += ["| " + " | ".join(map(_in_document, row)) + " |" for row in sheet.rows]
    return "\n".join([*lines, "", *(f"- {_in_document(remark)}" for remark in sheet.remarks)])


def _in_document(text: str) -> str:
    """A text in a line of Markdown, as it stands: neither a cell of its own, nor a link, an image or a tag."""
    plain = printable(_in_line(text.strip()))
    return re.sub(r"[\\|<]|!?\[(?=[^\]]*\]\()", lambda found: f"\\{found[0]}", plain)
