"""Language models of transformers that tell the next token, and low-rank adapters to them by peft."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fl_bench.build import nearest
from fl_bench.data.fetch import use_cache_when_offline
from fl_bench.errors import ConfigError
from fl_bench.models import smollm2
from fl_bench.models.pretrained import loading, pretrained_model, transformers_quietly

TINY = Path(__file__).parent / "llama_tiny"  # made by scripts/make_llama_checkpoint.py
Lora = Literal["both", "b_only", "off"]


def folder_of(path: str) -> Path:
    """Where the model `path` lies, a folder or an id of the hub, of which it brings the files, or smollm2.

    Raises:
        ConfigError: where there is no such model.
    """
    if path == smollm2.NAME:
        return smollm2.folder()
    if Path(path).is_dir():
        return Path(path)
    use_cache_when_offline()
    with loading(path):
        hub = transformers_quietly().utils.hub
        return Path(hub.snapshot_download(path, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"]))


def causal_model(folder: Path) -> nn.Module:
    """The language model in `folder`, of which nothing is copied that is not written to: processes share its file.

    Raises:
        ConfigError: where it cannot be read, or is another kind of model.
    """
    return pretrained_model(transformers_quietly().AutoModelForCausalLM, folder)


def with_adapters(model: nn.Module, lora: Lora, rank: int, alpha: float, targets: str | Sequence[str]) -> nn.Module:
    """The model with adapters at its linear layers `targets`, which alone are trained; itself with `lora=off`.

    LoRA (Hu et al. 2021, arXiv:2106.09685, section 4.1): a layer's weight W [out, in] becomes W + alpha / rank B A,
    with A [rank, in] drawn from torch's global generator and B [out, rank] zero. With `both`, A and B are trained, as
    in FedIT (Zhang et al. 2023, arXiv:2305.05644); with `b_only` A stays as it was drawn, as in FFA-LoRA (Sun et al.
    2024, arXiv:2403.12313).

    Raises:
        ConfigError: where peft is not installed, or the model has no such layers.
    """
    if lora == "off":
        return model
    if find_spec("peft") is None:
        raise ConfigError(f"model.lora={lora}: needs the package peft: pip install 'fl-bench[lora]'")
    from peft import LoraConfig, inject_adapter_in_model

    wanted = targets if isinstance(targets, str) else list(targets)
    layers = [name for name, part in model.named_modules() if not list(part.children())]
    for target in wanted if isinstance(wanted, list) else ():  # peft leaves those out that it does not find
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise ConfigError(f"model.targets: has {target}; {nearest(target, {n.rpartition('.')[2] for n in layers})}")
    how: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": wanted}
    try:
        inject_adapter_in_model(LoraConfig(**how), model)
    except ValueError as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"model.targets={targets}: {why} Names are a list, such as [q_proj,v_proj]") from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_B" in name or ("lora_A" in name and lora == "both"))
    return model
