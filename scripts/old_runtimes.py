"""Makes environments with the oldest onnxruntime that bundles promise to run under.

    python scripts/old_runtimes.py DIR

Always one for the Python that runs this; and one with onnxruntime 1.10 for the oldest Python that is found on this
machine (on PATH as python3.6 ... python3.9, or below ~/.pyenv/versions). Packages are unpacked into DIR and nothing is
installed anywhere else. `DIR/environments.json` lists what was made.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = {"3.6": "1.10.0", "3.7": "1.10.0", "3.8": "1.10.0", "3.9": "1.10.0", "3.10": "1.12.0", "3.11": "1.15.0"}
OLDEST |= {"3.12": "1.17.0", "3.13": "1.20.0"}
"""Python -> the oldest onnxruntime from 1.10 on that has a wheel for it on PyPI."""
FLOOR = ("3.6", "3.7", "3.8", "3.9")
GLIBC = ("2_28", "2_27", "2_17", "2_12", "2_5")


def version_of(python: str) -> str:
    """ "3.6" of an interpreter; "" when it does not run (pyenv's shims exist for Pythons that are not active)."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def floor_python() -> tuple[str, str] | None:
    """(version, interpreter) of the oldest Python found that can run onnxruntime 1.10."""
    for wanted in FLOOR:
        on_path = shutil.which(f"python{wanted}")
        below = sorted(Path.home().glob(f".pyenv/versions/{wanted}.*/bin/python"))
        for python in ([on_path] if on_path else []) + list(map(str, below)):
            if version_of(python) == wanted:
                return wanted, python
    return None


def fetch(version: str, packages: list[str], folder: Path) -> None:
    """Unpack wheels for a Python of this version into a folder."""
    tag = "cp" + version.replace(".", "")
    abi = tag + "m" if version in {"3.6", "3.7"} else tag
    machine = platform.machine()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", version, "--implementation", "cp", "--abi", abi]
    for glibc in GLIBC:
        command += ["--platform", f"manylinux_{glibc}_{machine}"]
    for older in ("manylinux2014", "manylinux2010", "manylinux1"):
        command += ["--platform", f"{older}_{machine}"]
    subprocess.run([*command, "--target", str(folder), *packages], check=True)


def environment(version: str, python: str, folder: Path) -> dict[str, object]:
    """Make one environment and say what it is; `pillow` is a further folder with an old Pillow."""
    site, pillow = folder / version, folder / f"{version}-pillow"
    if not pillow.exists():
        shutil.rmtree(site, ignore_errors=True)
        fetch(version, [f"onnxruntime=={OLDEST[version]}", "numpy<2"], site)
        fetch(version, ["Pillow>=8,<9" if version in FLOOR else "Pillow<11"], pillow)
    return {
        "name": f"python{version}-onnxruntime{OLDEST[version]}",
        "python": python,
        "onnxruntime": OLDEST[version],
        "site": str(site),
        "pillow": str(pillow),
    }


def main(folder: Path) -> None:
    """Make what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    own = "{}.{}".format(*sys.version_info[:2])
    made = [environment(own, sys.executable, folder)]
    older = floor_python()
    if older is None:
        print("no Python 3.6 to 3.9 here: onnxruntime 1.10 itself is not tried, only " + OLDEST[own], file=sys.stderr)
    else:
        made.append(environment(*older, folder))
    (folder / "environments.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
