"""What a bundle's `runner.py` is made of besides `edgewise.device.runner`, where it starts; see `standalone`.

A part that every start needs is imported at the head of a file and so compiled at each start; any other is imported
inside the function that needs it. All of it is Python 3.6 with the standard library, numpy and onnxruntime.
"""
