"""What the machine is and what is installed on it."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

PACKAGES = "inception-tf tensorflow keras jax onnxruntime openvino ai-edge-litert tf-slim torch numpy"
# What decides how fast a processor multiplies matrices, and in which precisions.
FEATURES = [
    "amx_bf16",
    "amx_int8",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "avx512f",
    "avx2",
    "asimddp",
    "bf16",
    "i8mm",
]


def machine(packages=PACKAGES):
    """The machine and what is installed on it, a JSON-like dict."""
    affinity = getattr(os, "sched_getaffinity", None)
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "processors": len(affinity(0)) if affinity else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": {name: version for name in packages.split() if (version := installed(name))},
    }
    if hasattr(os, "getloadavg"):
        facts |= {"load": os.getloadavg()[0], "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}
    return facts


def installed(package):
    """The version of a distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor():
    """The processor's name, and those of its features that matrix products use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = (facts.get("flags") or facts.get("Features", "")).split()
    name, found = facts.get("model name", platform.processor()), [flag for flag in FEATURES if flag in flags]
    return f"{name} ({', '.join(found)})" if found else name


def gpus():
    """The names and memory of NVIDIA's GPUs, as nvidia-smi gives them; empty without one."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
