"""Only what setup.cfg cannot say: cffi reads cffi_modules from here alone."""

from setuptools import setup

setup(cffi_modules=["src/build_launcher.py:ffibuilder"])
