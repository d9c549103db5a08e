"""Which datasets, views and modalities an experiment uses, and how datasets are paired."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msa.cache.store import FeatureStore
from msa.errors import ConfigError, StoreError, UnknownNameError
from msa.fuse.data import pairing
from msa.fuse.data.table import Table, table
from msa.names import shell_command
from msa.types import Modality


@dataclass(frozen=True)
class Data:
    """Which hidden states of which corpora, and how corpora are paired."""

    corpora: tuple[str, ...]  # names, or name@fingerprint
    pairing: str = "random"
    rho: float = 0.5  # of noisy_match
    pair_seed: int = 42
    views: Mapping[str, str] = field(default_factory=dict)  # modality -> backbone or view id; else the newest
    modalities: tuple[str, ...] = ()  # none: all there are

    def __post_init__(self) -> None:
        if self.pairing not in pairing.PROTOCOLS:
            raise UnknownNameError("pairing", self.pairing, pairing.PROTOCOLS)
        if not 0 <= self.rho <= 1:
            raise ConfigError(f"rho {self.rho:g} is not a probability", fix="give a number from 0 to 1")
        names = [name.partition("@")[0] for name in self.corpora]
        if len(set(names)) < len(names):
            raise ConfigError(f"{' + '.join(names)} names a corpus twice", fix="name each corpus once")

    def load(self, store: FeatureStore) -> Table:
        """Join labels, hidden states and corpora into one table."""
        joined = self.joined(store)
        return joined.only([Modality(m) for m in self.modalities]) if self.modalities else joined

    def joined(self, store: FeatureStore) -> Table:
        """Return the same with all modalities of datasets that have none of those wanted but are paired."""
        joined: Table | None = None
        for name in self.corpora:
            other = table(store, name, self._wanted(store, name))
            joined = other if joined is None else pairing.pair(joined, other, self.pairing, self.pair_seed, self.rho)
        assert joined is not None
        if lost := sorted(set(self.views) - set(joined.columns)):
            raise ConfigError(
                f"a view of {lost[0]} is named, and {joined.name} has {', '.join(joined.columns)}",
                fix="leave that --view out, or add a corpus that has it",
            )
        return joined

    def _wanted(self, store: FeatureStore, name: str) -> dict[Modality, str | None]:
        available = self._there(store, name)
        wanted = [m for m in Modality if m in available and (not self.modalities or m in self.modalities)]
        if not wanted and any(self._there(store, other) & set(self.modalities) for other in self.corpora):
            wanted = [
                m for m in Modality if m in available
            ]  # the other corpus has it; this one has labels, or is drawn
        if not wanted:
            asked = f" of {', '.join(self.modalities)}" if self.modalities else ""
            raise StoreError(
                f"{store.where} holds no hidden states{asked} for {name}",
                fix=shell_command("msa", "extract", "--dataset", name),
            )
        return {m: self.views.get(m) for m in wanted}

    @staticmethod
    def _there(store: FeatureStore, name: str) -> set[Modality]:
        return {view.modality for view in store.views(name) if view.samples}


def choose(store: FeatureStore, modalities: Sequence[str] = ()) -> tuple[tuple[str, ...], str]:
    """Pick the datasets when --data is omitted: the one with most modalities, plus one that supplies the missing ones.

    Return (names, reason).
    """
    views = {
        name: [v for v in store.views(name) if v.samples and (not modalities or v.modality in modalities)]
        for name in store.datasets
    }
    with_states = [name for name, listed in views.items() if listed]
    if not with_states:
        asked = f" of {', '.join(modalities)}" if modalities else " yet"
        raise StoreError(f"{store.where} holds no hidden states{asked}", fix="msa extract --dataset NAME --root PATH")
    has = {name: {view.modality for view in views[name]} for name in with_states}
    size = {name: max(view.samples for view in views[name]) for name in with_states}
    first = max(with_states, key=lambda name: (len(has[name]), size[name]))
    others = [name for name in with_states if name != first and not has[name] & has[first]]
    same = [name for name in others if store.index(name).task == store.index(first).task]
    if same:
        second = max(same, key=lambda name: size[name])
        return (first, second), f"{second} brings the {', '.join(sorted(has[second]))} that {first} lacks"
    alone = f"{first} has {', '.join(sorted(has[first]))}"
    return (first,), alone if len(with_states) == 1 else f"{alone}, the most of what is in the store"
