"""The public MMSA package's models, with the widths of our heads, fed the same tensors: the counterpart of every head.

The models are imported one by one from where the package lies: the package itself wants a dozen others, and BERT.
What its trainers add to a model - loss terms, and a mean instead of a sequence - is done here as they do it.
"""
# ruff: noqa: TID253 - stage 2 is torch throughout

import sys
from collections.abc import Callable, Mapping
from importlib import import_module, util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.fuse.head import Batch
from msa.types import Modality

VERSION = "2.2.1"
T, A, V = Modality.TEXT, Modality.AUDIO, Modality.FACE
Loss = Callable[[], Tensor]


class Args(dict[str, Any]):
    """Settings as the package reads them: by name, or as attributes."""

    __getattr__ = dict.__getitem__


class Frozen(nn.Module):
    """In the place of BERT: the hidden states themselves."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.states = torch.empty(0)

    def forward(self, text: Tensor) -> Tensor:
        return self.states


def find(path: Path | None) -> Path | None:
    """Where the package lies: the folder named, or where pip put it; None where it is not."""
    if path is None:
        spec = util.find_spec("MMSA")
        places = list(spec.submodule_search_locations or []) if spec else []
        return Path(places[0]) if places else None
    inside = path if path.name == "MMSA" else path / "MMSA"
    return inside if (inside / "models").is_dir() else None


def load(home: Path) -> None:
    """Let `MMSA.models.singleTask.TFN` be imported without what the packages around it import."""
    if "MMSA" in sys.modules:
        return
    for name in ("MMSA", "MMSA.models", "MMSA.models.singleTask", "MMSA.trains", "MMSA.trains.singleTask"):
        hollow = ModuleType(name)
        hollow.__path__ = [str(home.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = hollow
    bert = ModuleType("MMSA.models.subNets.BertTextEncoder")
    bert.BertTextEncoder = Frozen  # type: ignore[attr-defined]
    tools = ModuleType("MMSA.utils")
    tools.dict_to_str, tools.MetricsTop = str, None  # type: ignore[attr-defined]
    sys.modules |= {bert.__name__: bert, tools.__name__: tools}


def build(name: str, ours: Mapping[str, Any], batch: Batch) -> tuple[nn.Module, Loss]:
    """The package's model with the settings of ours, and what its training minimises on a batch."""
    dims = tuple(batch.x[m].shape[2] for m in (T, A, V))
    steps = tuple(batch.x[m].shape[1] for m in (T, A, V))
    args = Args(feature_dims=dims, seq_lens=steps, train_mode="regression", num_classes=3, device="cpu", use_bert=False)
    module = import_module(f"MMSA.models.singleTask.{FILES[name]}")
    model = getattr(module, FILES[name])(Args(args | SETTINGS[name](ours, dims)))
    return model, LOSSES.get(name, _plain)(model, batch)


def _plain(model: nn.Module, batch: Batch) -> Loss:
    return lambda: F.l1_loss(model(batch.x[T], batch.x[A], batch.x[V])["M"].squeeze(1), batch.y)


def _mfm(model: nn.Module, batch: Batch) -> Loss:
    def loss() -> Tensor:
        y, generated, prior, _ = model(batch.x[T], batch.x[A], batch.x[V])
        return F.l1_loss(y.squeeze(1), batch.y) + generated + prior

    return loss


def _misa(model: nn.Module, batch: Batch) -> Loss:
    trainer = import_module("MMSA.trains.singleTask.MISA")
    terms = SimpleNamespace(loss_diff=trainer.DiffLoss(), loss_recon=trainer.MSE(), loss_cmd=trainer.CMD())
    terms.args, terms.model = Args(use_cmd_sim=True), SimpleNamespace(Model=model)
    text = torch.ones(len(batch), 3, batch.x[T].shape[1])
    model.bertmodel.states = batch.x[T]
    own = trainer.MISA

    def loss() -> Tensor:
        y = model(text, batch.x[A], batch.x[V])["M"]
        more = own.get_cmd_loss(terms) + 0.3 * own.get_diff_loss(terms) + own.get_recon_loss(terms)
        return F.mse_loss(y.squeeze(1), batch.y) + more

    return loss


def _net(width: int, drop: float) -> dict[str, float]:
    return {"shapes": width, "drop": drop}


def _tfn(c: Mapping[str, Any], dims: tuple[int, ...]) -> dict[str, Any]:
    wide, drop = (c["text_hidden"], c["hidden"], c["hidden"]), c["dropout"]
    return {"hidden_dims": wide, "text_out": c["text_out"], "post_fusion_dim": c["post"], "dropouts": (drop,) * 4}


def _lmf(c: Mapping[str, Any], dims: tuple[int, ...]) -> dict[str, Any]:
    wide, drop = (c["text_hidden"], c["hidden"], c["hidden"]), c["dropout"]
    return {"hidden_dims": wide, "rank": c["rank"], "dropouts": (drop, drop, c["text_dropout"], drop)}


def _memory(wide: tuple[int, ...], memory: int, nets: tuple[int, ...], drop: float) -> dict[str, Any]:
    names = ("NN1Config", "NN2Config", "gamma1Config", "gamma2Config", "outConfig")
    named = {name: _net(width, drop) for name, width in zip(names, nets, strict=True)}
    return {"hidden_dims": wide, "memsize": memory, "windowsize": 2} | named


def _mfn(c: Mapping[str, Any], dims: tuple[int, ...]) -> dict[str, Any]:
    wide = (c["text_hidden"], c["audio_hidden"], c["vision_hidden"])
    return _memory(wide, c["memory"], (c["nn1"], c["nn2"], c["gamma"], c["gamma"], c["out"]), c["dropout"])


def _factors(c: Mapping[str, Any], dims: tuple[int, ...]) -> dict[str, Any]:
    z = dict(zip(("zl_size", "za_size", "zv_size"), c["z"], strict=True))
    f = dict(zip(("fl_size", "fa_size", "fv_size"), c["f"], strict=True))
    weights = dict(zip(("lda_xl", "lda_xa", "lda_xv"), c["reconstruction"], strict=True))
    drops = dict.fromkeys(("zy_to_fy_dropout", "zl_to_fl_dropout", "za_to_fa_dropout", "zv_to_fv_dropout"), 0.2)
    more = {"zy_size": c["z_y"], "fy_size": c["f_y"], "lda_mmd": c["mmd"], "fy_to_y_dropout": 0.0}
    return _memory(tuple(c["hidden"]), c["memory"], (c["inner"],) * 5, c["dropout"]) | z | f | weights | drops | more


def _mult(c: Mapping[str, Any], dims: tuple[int, ...]) -> dict[str, Any]:
    attention = dict.fromkeys(("attn_dropout", "attn_dropout_a", "attn_dropout_v"), c["attention_dropout"])
    kernels = {f"conv1d_kernel_size_{m}": c["kernel"] for m in "lav"}
    return (
        attention
        | kernels
        | {
            "dst_feature_dim_nheads": (c["dim"], c["heads"]),
            "nlevels": c["layers"],
            "relu_dropout": c["ffn_dropout"],
            "embed_dropout": c["embed_dropout"],
            "res_dropout": c["residual_dropout"],
            "output_dropout": c["out_dropout"],
            "text_dropout": c["embed_dropout"],
            "attn_mask": True,
        }
    )


def _spaces(c: Mapping[str, Any], dims: tuple[int, ...]) -> dict[str, Any]:
    fixed = {"use_bert": True, "use_finetune": False, "transformers": "", "pretrained": "", "rnncell": "lstm"}
    return fixed | {"hidden_size": c["dim"], "dropout": c["dropout"], "use_cmd_sim": True, "reverse_grad_weight": 0.8}


FILES = {"tfn": "TFN", "lmf": "LMF", "mfn": "MFN", "mfm": "MFM", "mult": "MULT", "misa": "MISA"}
SETTINGS = {"tfn": _tfn, "lmf": _lmf, "mfn": _mfn, "mfm": _factors, "mult": _mult, "misa": _spaces}
LOSSES = {"mfm": _mfm, "misa": _misa}
