"""Which cameras this machine has, who holds one, and why it may not be opened. Linux: /dev, /sys and /proc are read."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

from edgewise.errors import UnavailableError

ROOT = Path("/")
"""Where /dev, /sys and /proc are looked for; the tests have others."""


@dataclass(frozen=True)
class Holder:
    """A process that has a device open."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"


def cameras(root: Path = ROOT) -> dict[str, str]:
    """/dev/videoN -> the name that its driver gives it, in the order of N."""
    numbers = sorted(
        int(path.name.removeprefix("video"))
        for path in (root / "dev").glob("video*")
        if path.name.removeprefix("video").isdigit()
    )
    return {f"/dev/video{number}": _name(root, number) for number in numbers}


def holders(device: str, root: Path = ROOT) -> list[Holder]:
    """The processes that have a device open, as far as this user may see them (root sees all)."""
    target = root / device.lstrip("/")
    found = []
    for folder in (root / "proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # ended meanwhile, or somebody else's
            if any(_same(link, target) for link in (folder / "fd").iterdir()):
                found.append(Holder(int(folder.name), (folder / "comm").read_text(errors="replace").strip()))
    return sorted(found, key=lambda holder: holder.pid)


def check_device(device: str, root: Path = ROOT) -> None:
    """Say why a camera cannot be used before a library is asked, which would only say that it cannot.

    Raises:
        UnavailableError: L02 it is not there; L03 no permission; L04 it answers that it is busy, or not at all.
    """
    path = root / device.lstrip("/")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except PermissionError:
        raise UnavailableError(
            f"no permission for {device}", code="L03", why=_permission(path), fix=_group_hint(path)
        ) from None
    except OSError as problem:
        if problem.errno == errno.EBUSY:
            raise busy(device, "it is busy", root) from None
        if problem.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise busy(device, problem.strerror or str(problem), root) from None
        raise UnavailableError(f"no camera {device}", code="L02", why=_found(root), fix=_elsewhere(root)) from None


def busy(device: str, why: str, root: Path = ROOT) -> UnavailableError:
    """The error of a camera that is there and gives nothing: it names who holds it."""
    held = holders(device, root)
    if held:
        by = ", ".join(map(str, held))
        return UnavailableError(
            f"{device} is in use", code="L04", why=f"{why}; held by {by}", fix=f"end {held[0].name}, then try again"
        )
    return UnavailableError(
        f"{device} gives no picture",
        code="L04",
        why=f"{why}; nobody whom this user may see holds it",
        fix=f"`sudo fuser -v {device}` sees all processes; {_elsewhere(root)}",
    )


def _name(root: Path, number: int) -> str:
    with contextlib.suppress(OSError):
        return (root / f"sys/class/video4linux/video{number}/name").read_text(errors="replace").strip()
    return "unnamed"


def _same(link: Path, target: Path) -> bool:
    with contextlib.suppress(OSError):
        return link.readlink() == target.resolve()
    return False


def _found(root: Path) -> str:
    known = cameras(root)
    return "cameras here: " + (", ".join(f"{device} ({name})" for device, name in known.items()) or "none")


def _elsewhere(root: Path) -> str:
    others = [device.removeprefix("/dev/video") for device in cameras(root)]
    words = [f"--source usb:{others[0]}"] if others else ["plug one in (a virtual machine must be given it)"]
    return " or ".join([*words, "--source synthetic, a video file or a folder of pictures"])


def _permission(path: Path) -> str:
    with contextlib.suppress(OSError):
        state = path.stat()
        return f"it belongs to {_user(state.st_uid)}:{_group(state.st_gid)}, mode {state.st_mode & 0o777:o}"
    return "its folder is closed to this user"


def _group_hint(path: Path) -> str:
    group = "video"
    with contextlib.suppress(OSError):
        name = _group(path.stat().st_gid)
        group = group if name in ("root", "0") else name
    return f"sudo usermod -aG {group} $USER, then log in again (in a container: --device and --group-add {group})"


def _user(number: int) -> str:
    import pwd

    with contextlib.suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)


def _group(number: int) -> str:
    import grp

    with contextlib.suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return str(number)
