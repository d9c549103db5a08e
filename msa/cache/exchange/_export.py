"""The store -> a foreign file: one dataset with one view of each modality."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from msa.cache.exchange._foreign import Bundle
from msa.cache.store import FeatureStore
from msa.errors import ConfigError, StoreError
from msa.types import Modality


def export(
    store: FeatureStore, dataset: str, views: Mapping[str, str], format: str, module: ModuleType, out: Path
) -> list[str]:
    """Write a dataset to `out` and return what must be said of it; `views` names one where the newest is not meant.

    Raises ConfigError for a format that is only read, StoreError where `out` is taken or there is nothing to write.
    """
    if not hasattr(module, "write"):
        raise ConfigError(f"{format} is only read, not written", fix="choose another: see `msa list formats`")
    if out.exists():
        raise StoreError(f"{out} is there already", fix="name a new file or folder, or move the old one away")
    available = {view.modality for view in store.views(dataset)}
    if lacking := sorted(set(views) - available):
        raise StoreError(f"{dataset} has no {', '.join(lacking)} in {store.path}", fix=f"it has {', '.join(available)}")
    if not available:
        raise StoreError(f"{store.path} holds no hidden states of {dataset}", fix="see `msa cache ls`")
    chosen = {m: store.view(dataset, m, views.get(m)) for m in Modality if m in available}
    bundle = Bundle(store.index(dataset), {m: store.reader(view) for m, view in chosen.items()})
    try:
        remarks: list[str] = module.write(bundle, out)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error}", fix="name a file or folder where you may write") from None
    return [*(f"{m}: {view.name}@{view.id}" for m, view in chosen.items()), *remarks]
