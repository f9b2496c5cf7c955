"""Whether a device can run a bench at all: what it is, which packages it has, and what to do about what is missing."""

from __future__ import annotations

from typing import Any

from edgewise.errors import UnavailableError
from edgewise.measure.channel import Channel
from edgewise.measure.session import job_failure
from edgewise.measure.target import VENV

PACKAGES = ("numpy", "onnxruntime")
"""All that a device needs besides python3."""

INSTALL_S = 1800.0
NEWEST_PIP = '$("$PYTHON" -c \'import sys; print("pip<22" if sys.version_info < (3, 7) else "pip")\')'
"""What the pip of an environment is brought to: that of Python 3.6 knows too few wheels, and installs a newer pip that
does not run on it."""

_ARM32 = ("armv6l", "armv7l", "armhf")


def examine(channel: Channel) -> dict[str, Any]:
    """Facts of the device, with the packages that a process of its own could import.

    Returns:
        machine, state, power, python, executable, bits, libc, user, temp, places, home_free; `packages`: name ->
        {version, bytes} or {error}; `died`: what a package did that killed the process that imported it, else "".
    """
    facts = channel.ask("facts")
    facts.pop("end", None)
    facts["where"] = channel.place
    lines, ended = channel.run(["runtime"], 120.0)
    packages: dict[str, Any] = next((line["packages"] for line in lines if "packages" in line), {})
    died = ""
    if ended["code"] != 0:
        importing = [line["importing"] for line in lines if "importing" in line]
        what = f"importing {importing[-1]}" if importing else "Python"
        problem = job_failure(channel.place, what, ended["code"], ended["stderr"])
        died = f"{problem.what}: {problem.why}; {problem.fix}"
    return {**facts, "packages": packages, "died": died}


def refuse(facts: dict[str, Any]) -> None:
    """Stop where the device lacks what a bench needs.

    Raises:
        UnavailableError: E95, with what is missing and how to get it.
    """
    missing = [name for name in PACKAGES if "version" not in facts["packages"].get(name, {})]
    if not missing and not facts["died"]:
        return
    why = [facts["died"]] if facts["died"] else []
    why += [f"{name}: {facts['packages'].get(name, {}).get('error', 'not tried')}" for name in missing]
    raise UnavailableError(
        f"the device lacks {' and '.join(missing) or 'a runtime that works'}",
        code="E95",
        where={"device": facts["where"], "python": f"{facts['executable']} ({facts['python']})"},
        why="\n".join([*why, *hindrances(facts)]),
        fix="add --install to make an environment in the home folder of that user, or there: "
        "python3 -m pip install numpy onnxruntime",
    )


def hindrances(facts: dict[str, Any]) -> list[str]:
    """What of the device stands against installing or running onnxruntime, in words."""
    found = []
    arch, bits = facts["machine"]["arch"], facts["bits"]
    if bits == 32 or arch in _ARM32:
        found.append(f"a {bits}-bit system ({arch}): there is no onnxruntime wheel for it; use a 64-bit OS, or ncnn")
    version = tuple(int(part) for part in facts["python"].split(".")[:2])
    if version < (3, 10):
        found.append(f"Python {facts['python']}: pip finds an older onnxruntime for it, which reads these files too")
    libc = facts["libc"].rpartition(" ")[2]
    if facts["libc"].startswith("glibc") and _number(libc) < (2, 27):
        found.append(f"glibc {libc}: wheels of onnxruntime want 2.27 or newer")
    if facts["temp"]["noexec"]:
        found.append(f"{facts['temp']['folder']} is mounted noexec: nothing of a bench is run from it but text")
    return found


def install(channel: Channel) -> None:
    """Make an environment with numpy and onnxruntime in the home folder of the device's user; nothing else changes.

    Raises:
        UnavailableError: E99, it could not be made; what was made of it is removed.
    """
    steps = (
        f'"$PYTHON" -m venv "{VENV}"'
        f' && "{VENV}/bin/python" -m pip install --disable-pip-version-check -q -U {NEWEST_PIP}'
        f' && "{VENV}/bin/python" -m pip install --disable-pip-version-check -q numpy onnxruntime'
        f' && "{VENV}/bin/python" -c "import onnxruntime" || {{ rm -rf "{VENV}"; exit 1; }}'
    )
    python = channel.ask("facts")["executable"]
    ended = channel.ask(
        "run",
        INSTALL_S,
        words=[],
        python=["/bin/sh", "-c", steps],
        timeout_s=INSTALL_S,
        environment={"PYTHON": python},
    )
    if ended["code"] != 0:
        raise UnavailableError(
            "the environment could not be made on the device",
            code="E99",
            where={"device": channel.place, "folder": VENV},
            why="\n".join(ended["stderr"].strip().splitlines()[-8:]) or f"exit code {ended['code']}",
            fix="it needs python3-venv and a package index; `edgewise doctor --on` tells what else is missing",
        )


def checks(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The facts as `edgewise doctor` lists them: name, ok, detail."""
    machine = facts["machine"]
    found = [
        ("system", True, f"{machine['os']}, kernel {machine['kernel']}, {facts['libc'] or 'no glibc'}"),
        ("processor", facts["bits"] == 64, f"{machine['cpu']}, {machine['arch']}, {facts['bits']}-bit userland"),
        ("python3", True, f"{facts['python']} ({facts['executable']})"),
    ]
    for name, label in (("numpy", "numpy"), ("onnxruntime", "onnxruntime"), ("PIL", "Pillow (e2e clock only)")):
        package = facts["packages"].get(name, {})
        found.append((label, "version" in package, package.get("version") or package.get("error", "not tried")))
    if facts["died"]:
        found.append(("runtime", False, facts["died"]))
    for place in facts["places"]:
        if place["free"] is not None:
            noexec = ", noexec" if place["noexec"] else ""
            found.append((f"room in {place['folder']}", place["free"] > 64 << 20, f"{place['free'] >> 20} MiB{noexec}"))
    power = facts["power"]
    found.append(("power sensor", power["source"] is not None, power.get("boundary") or power["why"]))
    found += [("note", False, text) for text in hindrances(facts)]
    return [{"name": name, "ok": ok, "detail": detail} for name, ok, detail in found]


def _number(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
