"""What bench.json holds, checked when a bench is shown: benches are passed on as runs are, see `record`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msa.annotations.cells import Writer
from msa.errors import ConfigError
from msa.fuse import metrics
from msa.fuse.runs import plots
from msa.fuse.runs.files import make_folder, write_json, written
from msa.fuse.runs.node import Node
from msa.fuse.runs.record import MAX_SEED, check_scores, check_setting, task_of

COSTS = ("flops", "step_bytes", "seconds_per_epoch", "latency_ms")


def check_bench(root: Node) -> None:
    """Refuse a bench.json that lacks what is shown of a bench, or has it of another kind. Raises ConfigError."""
    task = task_of(root["task"])
    names, (decisive, sign) = metrics.headline(task), metrics.decisive(task)
    for name, wanted in {"metrics": list(names), "decisive": decisive, "sign": sign}.items():
        if root[name].value != wanted:
            root[name].refuse(f"is not {wanted}, as of the labels of this bench")
    root["title"].text()
    rows = root["rows"].elements()
    for row in rows:
        _check_row(row, names)
    if sum("best" in row.members() and row["best"].flag() for row in rows) != 1:
        root["rows"].refuse("has not one best row")
    if all(row["yardstick"].flag() for row in rows):
        root["rows"].refuse("holds no head")
    for baseline in root["beside"].members().values():
        check_scores(baseline, names, noted=False)
    machine = root["machine"]
    machine["device"].text()
    machine["threads"].whole()
    if machine["at_once"].value is not None:
        machine["at_once"].whole()
    root["audits"].texts()
    for reasons in (root["failed"], root.member("unmeasured", {})):
        for why in reasons.members().values():
            why.text()
    for search in root.member("searched", {}).members().values():
        for count in ("trials", "pruned", "failed"):
            search[count].whole()
        search["value"].number()
        for value in search["settings"].members().values():
            check_setting(value)


def _check_row(row: Node, names: tuple[str, ...]) -> None:
    for name in ("name", "title"):
        row[name].text()
    row["yardstick"].flag()
    check_scores(row, names, noted=False)
    row["test_samples"].whole()
    if row.member("groups", None).value is not None:
        row["groups"].whole(1)
    for result in row["seeds"].elements():
        result["seed"].whole(0, MAX_SEED)
    for name in ("collapsed", "restarted"):
        for seed in row[name].elements():
            seed.whole(0, MAX_SEED)
    for name in ("behind", "p_holm") if "behind" in row.members() else ():
        row[name].number()
    for value in row.member("printed", {}).members().values():
        value.number_or_none()
    stopping = row.member("stopping", {})
    for limit in ("epochs", "patience") if stopping.value else ():
        stopping[limit].whole()
    check_cost(row["cost"])


def check_cost(cost: Node) -> None:
    """Refuse costs of a head that are no numbers. Raises ConfigError."""
    known = cost.members()
    if "parameters" in known:
        known["parameters"].whole()
    for name in known.keys() & set(COSTS):
        known[name].number()
    for place in cost.member("epochs_on", []).elements():
        place["device"].text()
        place["threads"].whole()


RECORD = "bench.json"
SPENT = ("parameters", "flops", "step_bytes", "latency_ms", "per_sample_ms", "seconds_per_epoch")  # in bench.csv


def read(folder: Path) -> dict[str, Any]:
    """Return the table that `bench` wrote into a folder. Raises ConfigError where it is damaged or of an older msa."""
    path = folder / RECORD
    root = Node.read(path)
    try:
        check_bench(root)
    except ConfigError as error:
        raise ConfigError(error.what, fix="run the same `msa fuse bench` again: it writes the table anew") from None
    return dict(root.value)


def write(bench: Mapping[str, Any], folder: Path) -> None:
    """Write bench.json, and the same as CSV and as a picture; bench_tables.py makes the table people read from it."""
    make_folder(folder)
    by = bench["decisive"]
    none = (float("nan"), float("nan"))  # of one group of test samples: the mean is drawn without
    drawn = [
        (row["title"], row["values"][by], row["interval"].get(by, none), [seed["values"][by] for seed in row["seeds"]])
        for row in bench["rows"]
        if row["values"][by] is not None
    ]
    constant = {
        name: scores["values"][by] for name, scores in bench["beside"].items() if scores["values"].get(by) is not None
    }
    plots.forest(folder / "bench.png", drawn, by.replace("_", " "), bench["title"], constant)
    write_json(folder / RECORD, bench)
    rows = [line for row in bench["rows"] for line in _flat(row)]
    rows += [line for name, row in bench["beside"].items() for line in _flat({"name": name, "yardstick": True, **row})]
    with written(folder / "bench.csv") as file:
        columns, table = list(dict.fromkeys(name for row in rows for name in row)), Writer(file)
        table.row(columns)
        table.rows([row.get(name) for name in columns] for row in rows)


def _flat(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield rows of bench.csv, column -> plain value: of all test samples, then of each dataset alone."""
    facts = {name: row.get(name) for name in ("name", "yardstick", "preset", "fidelity")}
    compared = {name: row.get(name) for name in ("behind", "p", "p_holm")}
    seeds = {name: " ".join(map(str, row.get(name, ()))) for name in ("collapsed", "restarted")}
    spent = {name: row.get("cost", {}).get(name) for name in SPENT}
    printed = {f"printed_{name}": v for name, v in row.get("printed", {}).items()}
    yield facts | {"corpus": ""} | _scores(row) | compared | seeds | spent | printed
    for corpus, part in row.get("by_corpus", {}).items():
        yield facts | {"corpus": corpus} | _scores(part)


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return values, standard deviations and the ends of intervals, where there are any."""
    sd = {f"sd_{name}": v for name, v in row.get("sd", {}).items()}
    bounds = row.get("interval", {}).items()
    ends = {f"{end}_{name}": v[at] for at, end in enumerate(("low", "high")) for name, v in bounds}
    return {name: row.get(name) for name in ("test_samples", "groups")} | row["values"] | sd | ends
