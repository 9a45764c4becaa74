"""What the compiled module offers: cffi's ffi, and the functions and constants of c/spawn.h and c/plan.h."""

from typing import Any

ffi: Any
lib: Any
