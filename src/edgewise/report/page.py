"""A page: one HTML file that holds everything it shows and fetches nothing.

It is made from a template, ``report.css`` and a script beside this file, data as JSON, and plotly.js, which the plotly
package ships. Jinja2 escapes every text in the markup; the JSON is escaped for its place inside a script element; the
scripts neutralise the markup that plotly would read in labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgewise.errors import UnavailableError
from edgewise.report.files import write_file
from edgewise.report.words import clean, show_scaled

_HERE = Path(__file__).parent


def write_page(path: Path, template: str, script: str, context: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Write a page with plots atomically; about 5 MB, nearly all of it plotly.js.

    Args:
        path: where it goes.
        template: name of the Jinja2 template in this folder.
        script: name of the script in this folder.
        context: what the template shows.
        data: what the script draws, as plain data.

    Raises:
        UnavailableError: plotly or Jinja2 is missing, or the file cannot be written.
    """
    try:
        from plotly.offline import get_plotlyjs, get_plotlyjs_version
    except ImportError as problem:
        raise _missing(problem) from problem
    plotly = get_plotlyjs()
    page = _render(
        template,
        context,
        data=_script_json(_cleaned(data)),
        script=(_HERE / script).read_text(encoding="utf-8"),
        plotly=plotly,
        plotly_version=get_plotlyjs_version(),
        plotly_size=show_scaled(len(plotly.encode()), "B"),
    )
    write_file(path, page)


def write_plain_page(path: Path, template: str, context: Mapping[str, Any]) -> None:
    """Write a page without scripts atomically.

    Raises:
        UnavailableError: Jinja2 is missing, or the file cannot be written.
    """
    write_file(path, _render(template, context))


def _render(template: str, context: Mapping[str, Any], **trusted: str) -> str:
    """A page; `context` may come from anywhere, `trusted` is markup, scripts and the like of our own."""
    try:
        import jinja2
    except ImportError as problem:
        raise _missing(problem) from problem
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = (_HERE / "report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(**_cleaned(context), css=css, **trusted)


def _missing(problem: ImportError) -> UnavailableError:
    return UnavailableError(
        "the HTML report needs plotly and Jinja2", code="E40", why=str(problem), fix='pip install "edgewise[host]"'
    )


def _cleaned(value: Any) -> Any:
    """Plain data with `clean` applied to every text in it, keys included."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(key)): _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner) for inner in value]
    return value


def _script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no ``<``, ``>``, ``&`` or line separators in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
