"""Metadata lives in pyproject.toml; this file is where an extension module goes."""

from setuptools import setup

setup()
