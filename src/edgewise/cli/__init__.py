"""The command line: each command is one public call; every error is one message, one fix, one exit code."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import NoReturn

import typer

from edgewise import ranks
from edgewise.cli.bench import bench
from edgewise.cli.bundles import pack, unpack
from edgewise.cli.capture import capture
from edgewise.cli.compress import compress
from edgewise.cli.export import export
from edgewise.cli.images import data_check, explore_data
from edgewise.cli.live import live
from edgewise.cli.look import compare, doctor, models, profile, show_recipe, verify
from edgewise.cli.serve import serve
from edgewise.cli.toolchain import toolchain_install, toolchain_list, toolchain_remove
from edgewise.cli.training import explain, run, train
from edgewise.cli.web import web
from edgewise.errors import ConfigError, EdgewiseError
from edgewise.interrupt import Interrupted, listen

app = typer.Typer(
    name="edgewise",
    help="Labelled images in; the smallest, fastest classifier that still meets your accuracy on your device out.",
    epilog="Every command takes --debug, which shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Know the images before training on them.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
toolchain_app = typer.Typer(
    help="Environments for converters that cannot live beside edgewise.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(toolchain_app, name="toolchain")

_COMMANDS = (
    *(run, train, compress, export, web, bench),
    *(live, capture),
    serve,
    *(explain, models, profile, compare),
    *(verify, pack, unpack, doctor),
)
"""In the order in which `--help` lists them."""

for command in _COMMANDS:
    app.command()(command)
app.command("recipe")(show_recipe)
data_app.command("check")(data_check)
data_app.command("explore")(explore_data)
toolchain_app.command("list")(toolchain_list)
toolchain_app.command("install")(toolchain_install)
toolchain_app.command("remove")(toolchain_remove)

_TOLD_BY_PROCESS_0 = {"E70", "T01"}
"""Errors that all processes meet together, besides those of configuration."""


def main() -> NoReturn:
    """The `edgewise` command."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them costs a tenth of a usage error
    words = [word for word in sys.argv[1:] if word != "--debug"]
    debug, as_json = len(words) < len(sys.argv) - 1, "--json" in words
    listen()
    try:
        code = app(words, standalone_mode=False) or 0
    except EdgewiseError as problem:
        if debug:
            raise
        code = _report(problem, as_json)
    except Interrupted as stopped:
        how = f"go on with: edgewise {words[0]} --resume {shlex.quote(str(stopped.saved))}" if stopped.saved else ""
        if not ranks.rank():
            print("interrupted" + (f"; the state is saved, {how}" if how else ""), file=sys.stderr)
        code = stopped.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as problem:
        usage = getattr(problem, "format_message", None)
        if usage is None and debug:
            raise
        code = _report(_usage_error(problem, usage()) if usage else _unexpected(problem), as_json)
    if ranks.size() > 1:
        # The threads of torch's process group abort the interpreter's end when another process went first.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _usage_error(problem: Exception, message: str) -> ConfigError:
    context = getattr(problem, "ctx", None)
    command = getattr(context, "command_path", None) or "edgewise"
    first, *rest = message.splitlines()
    return ConfigError(first, code="C03", why="\n".join(rest), fix=f"`{command} --help` lists the flags")


def _unexpected(problem: Exception) -> EdgewiseError:
    return EdgewiseError(
        f"unexpected {type(problem).__name__}",
        code="B01",
        why=str(problem),
        fix="add --debug to see where; please report it with that traceback (a run keeps it in log.txt)",
    )


def _report(problem: EdgewiseError, as_json: bool) -> int:
    if ranks.rank():
        if problem.exit_code != ConfigError.exit_code and problem.code not in _TOLD_BY_PROCESS_0:
            print(f"process {ranks.rank()}: {problem}", file=sys.stderr)
        return problem.exit_code
    if as_json:
        print(json.dumps(problem.as_dict(), indent=1, ensure_ascii=False))
    else:
        print(problem, file=sys.stderr)
    return problem.exit_code
