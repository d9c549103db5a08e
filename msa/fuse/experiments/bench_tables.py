"""Tables of `msa fuse bench` and of what heads cost: heads from the best down, then the baselines, and remarks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msa.fuse.experiments.tables import TITLES, Sheet, in_line, interval_remark, mean_row, number, rough_remarks


def bench_sheet(table: Mapping[str, Any]) -> Sheet:
    """Return the table of `msa fuse bench`: heads from the best down, then the baselines."""
    names, shown = table["metrics"], []
    for row in table["rows"]:
        shown.append((*mean_row(row["title"], row, names), _against(row), *_spent(row["cost"])))
        shown += _parts(row, names)
        if printed := row.get("printed"):
            shown.append(("  printed", *(number(printed.get(name)) for name in names), *[""] * 6))
    for name, scores in table["beside"].items():
        shown.append((*mean_row(name, scores, names), *[""] * 6))
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
    return Sheet(table["title"], columns, tuple(shown), tuple(_bench_remarks(table)))


def _parts(scores: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return a row of scores on each dataset alone, where the test split has several."""
    parts = scores.get("by_corpus", {}).items()
    return [(*mean_row(f"  on {name}", part, names), *[""] * 6) for name, part in parts]


def complexity_sheet(title: str, rows: Sequence[Mapping[str, Any]], remark: str) -> Sheet:
    """Return a table of what heads cost, with a paper's printed figures."""
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
    measured_at = f"one sample of {lengths} steps; times with {threads} of the CPU"
    return Sheet(title, columns, tuple(shown), (measured_at, f"of the paper: {remark}"))


def _against(row: Mapping[str, Any]) -> str:
    if "behind" not in row:
        return "best head" if row.get("best") else "-"
    return f"{row['behind'] + 0.0:.3f}\n({_small(row['p_holm'])})".replace("-0.000", "0.000")


def _small(p: float) -> str:
    return f"p {p:.2f}" if p >= 0.01 else f"p {p:.3f}"


def _spent(cost: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row's costs; - for what could not be measured."""
    ways: dict[str, Callable[[float], str]] = {
        "parameters": lambda n: f"{n:,}",
        "flops": scaled,
        "step_bytes": lambda n: scaled(n, "B"),
        "seconds_per_epoch": lambda s: f"{s:.2f}",
        "latency_ms": lambda ms: f"{ms:.2f}",
    }
    return tuple(write(cost[name]) if name in cost else "-" for name, write in ways.items())


def scaled(n: float, what: str = "") -> str:
    """Return a number with three digits and its unit: 154 k, 2.02 MB."""
    unit, *larger = "", "k", "M", "G", "T"
    while n >= 999.5 and larger:
        n, unit, *larger = n / 1000, *larger
    return f"{n:.3g} {unit}{what}".rstrip()


def _several(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _bench_remarks(table: Mapping[str, Any]) -> Iterator[str]:
    best = next(row for row in table["rows"] if row.get("best"))
    several = "mean ± sd over seeds " if len(best["seeds"]) > 1 else ""
    yield several + interval_remark(best)
    yield from rough_remarks(best)
    for row in table["rows"]:
        if row.get("groups") is None and best.get("groups") is not None:
            yield f"{row['name']}: an older run, whose interval is over single test samples"
        elif row.get("groups") != best.get("groups"):
            yield from rough_remarks({"groups": row["groups"]}, row["name"])
    yield (
        f"behind: the best head less this, in {in_line(TITLES[table['decisive']])}; p by a paired bootstrap over the "
        "same, adjusted for the number of rows by Holm; the best was chosen on the same test split, which favours it"
    )
    yield from _least_p(table["rows"], best)
    yield from _unbeaten(table)
    yield from _stopping(table["rows"])
    for name, search in table.get("searched", {}).items():
        yield _searched(name, search)
    yield from _costs_told(table)
    yield from table["audits"]
    for row in table["rows"]:
        if "behind" not in row and row is not best:
            yield (
                f"{row['name']}: on the {row['test_samples']} test samples that have its modalities, {best['name']} on "
                f"{best['test_samples']}: not to be compared"
            )
    for what, words in (("collapsed", "COLLAPSED to one answer"), ("restarted", "restarted at a lower rate")):
        if fallen := [f"{row['name']} {_of_seeds(row, what)}" for row in table["rows"] if row[what]]:
            yield f"{words}, with these seeds: {'; '.join(fallen)}"
    for name, reason in table.get("unmeasured", {}).items():
        yield f"{name}: what it costs could not be measured: {reason}"
    for name, reason in table["failed"].items():
        yield f"{name} could not be trained: {reason}"


def _least_p(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning where no difference, however large, could be significant."""
    compared = sum("p_holm" in row for row in rows)
    if best.get("groups") and (least := compared * 2.0 ** (1 - best["groups"])) > 0.05:
        yield (
            f"with {_several(best['groups'], 'group')} and {_several(compared, 'comparison')} no p can be below "
            f"{min(least, 1.0):.2f}: this table tells no two rows apart"
        )


def _unbeaten(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the heads that do not beat a probe tested on the same samples."""
    name, sign = table["decisive"], table["sign"]
    value = lambda row: -float("inf") if row["values"][name] is None else sign * row["values"][name]  # noqa: E731
    heads = [row for row in table["rows"] if not row["yardstick"]]
    probes = [row for row in table["rows"] if row["yardstick"] and row["test_samples"] == heads[0]["test_samples"]]
    if heads and probes:
        first = max(probes, key=value)
        if below := [row["name"] for row in heads if value(row) <= value(first)]:
            which = "no head beats" if len(below) == len(heads) else f"{', '.join(below)}: not better than"
            yield f"{which} {first['name']} ({first['values'][name]:.3f})"


def _stopping(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield each head's epochs and patience, since the papers' differ."""
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


def _costs_told(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the costs are of, and the devices and threads they were measured on."""
    machine = table["machine"]
    places = {(on["device"], on["threads"]) for row in table["rows"] for on in row["cost"].get("epochs_on", ())}
    trained = " or ".join(f"{device}, {_several(threads, 'thread')}" for device, threads in sorted(places))
    at_once = (
        f"{_several(machine['at_once'], 'training')} at once" if machine["at_once"] else "trainings on a dask cluster"
    )
    yield (
        f"costs on {machine['device']}, {_several(machine['threads'], 'thread')}: operations on one sample of median "
        f"length, memory of a training step of 64, latency of a batch of one; seconds of an epoch with {at_once}"
        + (f" ({trained} each)" if trained else "")
    )
