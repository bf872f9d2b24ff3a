"""What records and model cards say of the machine that they were made on."""

from __future__ import annotations

import os
import platform
import resource
import sys
from functools import cache
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows the name


def described(device: torch.device) -> dict[str, str]:
    """Processor, its cores and architecture, the threads that torch uses, and the GPU's name where it is used."""
    facts = {
        "machine": platform.machine(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
    return facts if device.type != "cuda" else {**facts, "gpu": torch.cuda.get_device_name(device)}


def peak_memory_mb() -> float:
    """The most memory that this process has had, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of what getrusage counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def multiplies_bfloat16(device: torch.device) -> bool:
    """Does the device multiply bfloat16 itself, and may it? Emulated it is slower than float32 and rounds for nothing.

    Of a processor torch's own kernels and oneDNN's must both use it, which ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA
    can forbid.
    """
    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device)[0] >= 8)
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public way to ask
    return bool(
        device.type == "cpu"
        and known is not None
        and known()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


@cache
def processor() -> str:
    """The processor's name as its maker gives it, or its architecture where the system does not tell."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
