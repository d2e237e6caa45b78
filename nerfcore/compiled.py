"""How kernels are compiled for the CPU: their options, and a cache that no edit leaves stale.

A kernel takes in kernels and constants of other files, while Numba asks only whether the kernel's
own file changed. So the cache lies in a folder named after the contents of all files with kernels
and of those that they import from: in NUMBA_CACHE_DIR where that is set, else beside the package,
else, where that is read-only, in the user's cache folder.

EXACT keeps float arithmetic as written; FAST may reorder and fuse it. Under both, what is not a
number stays so: a broken weight must reach the loss. A kernel states its choice, since one that is
silent takes its first caller's.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from numba.core import config

_PACKAGE = Path(__file__).parent
_KERNELS = re.compile(rb"^(?:import numba|from llvmlite)\b", re.MULTILINE)
_IMPORTS = re.compile(rb"^from (\w+(?:\.\w+)+) import", re.MULTILINE)
_PREFIX = "kernels-"

EXACT: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": False}
FAST: dict[str, Any] = EXACT | {"fastmath": {"contract", "reassoc", "arcp", "afn", "nsz"}}


def kernel_files(package: Path) -> dict[str, bytes]:
    """Contents of the files that kernels are compiled from, by their paths inside the package."""
    contents = {str(p.relative_to(package)): p.read_bytes() for p in sorted(package.rglob("*.py"))}
    own = {name for name, text in contents.items() if _KERNELS.search(text)}
    named = (_module_file(m[1].decode()) for n in own for m in _IMPORTS.finditer(contents[n]))
    wanted = own.union(*named)
    return {name: text for name, text in contents.items() if name in wanted}


def _module_file(module: str) -> set[str]:
    """A module's possible files inside its package."""
    path = "/".join(module.split(".")[1:])
    return {f"{path}.py", f"{path}/__init__.py"}


def cache_name(package: Path) -> str:
    """The folder's name for a package's kernels as they are now."""
    digest = hashlib.sha256()
    for name, text in kernel_files(package).items():
        digest.update(f"{name}\0{len(text)}\0".encode() + text)
    return _PREFIX + digest.hexdigest()[:16]


def cache_home(stated: str, package: Path) -> Path:
    """Where the folders lie: as `stated` if not empty, else the first place that can be written."""
    if stated:
        return Path(stated)
    beside = package / "__pycache__"
    if os.access(beside if beside.exists() else package, os.W_OK):
        return beside
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "skyline-nerf"


def remove_stale() -> None:
    """Removes what earlier contents of this package left beside it."""
    for folder in (_PACKAGE / "__pycache__").glob(_PREFIX + "*"):
        if folder != KERNEL_CACHE:
            shutil.rmtree(folder, ignore_errors=True)


KERNEL_CACHE = cache_home(vars(config)["CACHE_DIR"], _PACKAGE) / cache_name(_PACKAGE)
config.__dict__["CACHE_DIR"] = str(KERNEL_CACHE)
