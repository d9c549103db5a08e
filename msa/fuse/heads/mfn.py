"""MFN: LSTMs with a shared gated memory (Zadeh et al., AAAI 2018).

Paper    https://arxiv.org/abs/1802.00927
Code     https://github.com/pliang279/MFN, commit b0453fb6e21b (2020-08-04)
Fidelity A on aligned features, B on others: see Differs
Differs  The paper's modalities are aligned to words beforehand. Unaligned features are resampled to one step per word:
         the mean of the steps that fall into it, all words being equally long. Without text the longest modality sets
         the number of steps. More than `steps` are averaged in the same way.
         The authors tune every width and dropout per dataset. The defaults are those of the settings file that they
         publish for MOSI, with one dropout, since all of theirs are equal. The error is squared, theirs absolute.
Missing  A modality absent from `dims` has no LSTM. The states and cells of one that a sample lacks are 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from msa.fuse.head import Batch, FusionHead
from msa.fuse.modules.memory import MemoryFusion, Widths, common_clock
from msa.types import Modality, Task


@dataclass(frozen=True)
class Config:
    """The authors' settings file for MOSI."""

    text_hidden: int = 64  # units of the LSTM of each modality
    audio_hidden: int = 16
    vision_hidden: int = 32  # image and face
    memory: int = 128  # width of u
    nn1: int = 256  # hidden units of D_a, which attends
    nn2: int = 64  # of D_u, which proposes
    gamma: int = 64  # of D_gamma1, which retains, and D_gamma2, which updates
    out: int = 64  # of the layer before the last
    dropout: float = 0.5  # in all of them
    steps: int = 50  # most steps; the aligned files of MOSI and MOSEI have 50


PRESETS = {
    "default": Config(),
    "small": Config(text_hidden=32, vision_hidden=16, memory=32, nn1=32, nn2=32, gamma=32),
}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 1e-3,  # ours; the authors search .001 to .02
        "batch": 32,  # ours; the authors search 32 to 128
    }
}


class MFN(FusionHead):
    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = config
        self.modalities = [m for m in Modality if m in dims]
        self.steps = c.steps
        hidden = dict.fromkeys(self.modalities, c.vision_hidden)
        hidden |= {Modality.TEXT: c.text_hidden, Modality.AUDIO: c.audio_hidden}
        widths = Widths(c.memory, c.nn1, c.nn2, c.gamma, c.dropout)
        self.fuse = MemoryFusion({m: dims[m] for m in self.modalities}, hidden, widths)
        self.classify = nn.Sequential(
            nn.Linear(self.fuse.width, c.out), nn.ReLU(), nn.Dropout(c.dropout), nn.Linear(c.out, task.outputs)
        )

    def forward(self, batch: Batch) -> Tensor:
        mask = {m: batch.mask[m] for m in self.modalities}  # each (B, L_m)
        x, clock = common_clock({m: batch.x[m] for m in self.modalities}, mask, self.steps)  # each (B, T, D_m), (B, T)
        last = self.fuse(x, clock, {m: mask[m].any(1) for m in self.modalities})  # h_T and u_T, (B, width)
        return self.classify(last)  # (B, outputs)
