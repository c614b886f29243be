"""The config: strict models, their defaults, and YAML files.

This file imports nothing, because ``graft predict`` imports ``image_sources`` where pydantic is not installed.
"""
