"""What bench.json holds, checked when a bench is shown: benches are passed on as runs are, see `record`."""

from msa.fuse import metrics
from msa.fuse.runs.record import MAX_SEED, Node, check_scores, check_setting, task_of

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
    for one in row["seeds"].elements():
        one["seed"].whole(0, MAX_SEED)
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
