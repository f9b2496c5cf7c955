"""``runner.py verify`` and ``runner.py tensorrt``: the files of a bundle. Python 3.6."""

import os

from edgewise.device.onnxfile import BadModel
from edgewise.device.shipped.opening import check_files, read_checked, read_manifest
from edgewise.device.shipped.refused import Refused, say


def verify(folder: str) -> int:
    """Compare every file of the bundle with its sha256; anything that does not belong there counts as a change."""
    manifest = read_manifest(folder)
    check_files(folder, manifest["files"])
    added = sorted(set(os.listdir(folder)) - set(manifest["files"]) - {"manifest.json"})
    if added:
        why = "not in the manifest: " + ", ".join(added)
        raise Refused(6, "U03", "the bundle is not as it was written", folder, why, "remove what was added")
    say({"bundle": manifest["name"], "files": len(manifest["files"]), "unchanged": True})
    return 0


def tensorrt(folder: str, out: str) -> int:
    """Write the model with float32 pixels (0..255), which TensorRT 8.2 reads; it takes no uint8."""
    from edgewise.device.float_input import with_float_input

    path, model, facts = read_checked(folder, read_manifest(folder))
    try:
        changed = with_float_input(model)
    except BadModel as problem:
        raise Refused(6, problem.code, problem.what, path, str(problem), "give the fp32 bundle's folder") from None
    try:
        with open(out, "xb") as stream:
            stream.write(changed)
    except OSError as problem:
        raise Refused(4, "E37", "the file cannot be written", out, str(problem), "give a new name") from None
    say({"file": out, "input": facts["input"][0], "shape": [1, *facts["input"][2][1:]], "type": "float32"})
    return 0
