"""The command line of ``runner.py``; argparse would take a tenth of a cold start. Python 3.6."""

from typing import Any, Dict, List

COMMANDS: Dict[str, Any] = {
    "classify": ("IMAGE...", {"--top": 3, "--threshold": None, "--threads": 1}),
    "camera": ("[SOURCE]", {"--every": 1, "--frames": 0, "--top": 3, "--threshold": None, "--threads": 1}),
    "bench": ("[IMAGE]", {"--runs": 100, "--threads": 1}),
    "verify": ("", {}),
    "tensorrt": ("FILE", {}),
    "probe": ("", {"--runs": 20, "--threads": 1, "--baseline": False, "--started": None}),
}
"""Command -> its words, and its options with their defaults; what they mean stands in `usage`."""


def read_words(argv: List[str], folder: str) -> Any:
    """(command, words, options) of a command line; ends the program with 2 where it is wrong, with 0 after --help.

    Args:
        argv: the words after the program's name.
        folder: the bundle where none is given.
    """
    if argv[:1] in (["-h"], ["--help"]):
        _end(0, "")
    if not argv or argv[0] not in COMMANDS:
        _end(2, "no command {!r}".format(argv[0]) if argv else "a command is missing")
    command, rest = argv[0], list(argv[1:])
    words = []  # type: List[str]
    options = dict(COMMANDS[command][1], **{"--bundle": folder})
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            words, rest = words + rest, []
        elif not word.startswith("-") or word == "-":
            words.append(word)
        elif word in ("-h", "--help"):
            _end(0, "", command)
        elif name not in options:
            _end(2, "{} has no option {} (a file of that name is ./{})".format(command, name, word), command)
        elif COMMANDS[command][1].get(name) is False and not equals:
            options[name] = True
        elif not equals and not rest:
            _end(2, "{} needs a value".format(name), command)
        else:
            options[name] = _converted(command, name, value if equals else rest.pop(0))
    least, most = {"IMAGE...": (1, None), "FILE": (1, 1), "": (0, 0)}.get(COMMANDS[command][0], (0, 1))
    if len(words) < least or (most is not None and len(words) > most):
        _end(2, "{} takes {}, not {} words".format(command, COMMANDS[command][0] or "none", len(words)), command)
    return command, words, options


def _converted(command: str, name: str, text: str) -> Any:
    try:
        if name == "--bundle":
            return text
        if name == "--baseline":
            raise ValueError("takes no value")
        value = float(text) if name in ("--threshold", "--started") else int(text)
        if name == "--threshold" and not 0 <= value <= 1:
            raise ValueError("0 to 1, not {}".format(text))
        if name in ("--threads", "--top", "--every", "--runs") and value < 1:
            raise ValueError("1 or more, not {}".format(text))
        return value
    except ValueError as problem:
        return _end(2, "{}: {}".format(name, problem), command)


def _end(code: int, problem: str, command: str = "") -> None:
    from edgewise.device.shipped.usage import show_usage

    show_usage(code, problem, command)
    raise SystemExit(code)
