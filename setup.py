"""Only what setup.cfg cannot say: cffi reads cffi_modules from here alone."""

from setuptools import setup

setup(cffi_modules=["drivers/native/build_native.py:ffibuilder"])
