"""`ladm env`: what runs here, to paste into a report."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

from ladm_hf.calculators.calculator import resolve
from ladm_hf.calculators.files import CONFIG_FILE
from ladm_hf.errors import LadmError
from ladm_hf.scoring.attention import describe
from ladm_hf.scoring.precision import auto_dtype
from ladm_hf.version import __version__

PACKAGES = (
    "torch", "transformers", "datasets", "evaluate", "accelerate", "huggingface_hub", "tokenizers", "pyarrow", "numpy",
    "triton", "flash-attn-4", "matplotlib", "ray", "datatrove", "gradio",
)  # fmt: skip


def describe_environment() -> dict[str, str]:
    """Names and values, in order: versions, machine, accelerators, attention, the default calculator."""
    lines = {
        "ladm_hf": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "cpu": f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads",
    }
    for package in PACKAGES:
        try:
            lines[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            lines[package] = "not installed"
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    lines["accelerators"] = ", ".join(
        f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB, sm_{gpu.major}{gpu.minor})" for gpu in gpus
    ) or ("Apple MPS" if torch.backends.mps.is_available() else "none")
    lines["attention"] = describe("cuda" if gpus else "cpu")
    try:
        calculator = resolve(None)
        own = " with its own ladm_config.json" if calculator.path and (calculator.path / CONFIG_FILE).is_file() else ""
        lines["calculator"] = f"{calculator.name} ({calculator.identity}){own}"
        device = "cuda" if gpus else "mps" if torch.backends.mps.is_available() else "cpu"
        lines["dtype"] = f"auto is {auto_dtype(calculator, device)}"
    except LadmError as error:
        lines["calculator"] = f"cannot be found: {error}"
    for variable in ("LADM_MODEL", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS"):
        if variable in os.environ:
            lines[f"${variable}"] = os.environ[variable]
    return lines
