"""The console command ``graft``, one module for each group of commands.

Heavy libraries are imported inside the commands that need them: ``graft predict`` runs with onnxruntime, Pillow and
NumPy alone.
"""

from graft.cli.main import console, main

__all__ = ["console", "main"]
