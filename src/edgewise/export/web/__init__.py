"""The web target: a bundle as a static folder that classifies in a browser; see `edgewise.export.web.folder`."""

from __future__ import annotations

from edgewise.export.web.folder import WebFolder, write_web

__all__ = ["WebFolder", "write_web"]
