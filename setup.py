"""Only what pyproject.toml cannot say: the C modules, and the tag of the wheel."""

import sysconfig
from glob import glob

from setuptools import Extension, setup

# The modules use the limited API, so one wheel serves CPython 3.11 and later. The free-threaded
# build has no limited API yet, and setuptools refuses the tag there. It has no GIL either, which
# shmsync._fast relies on.
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

fast = Extension(
    "shmsync._fast",
    sources=["native/python/fast.c"],
    depends=glob("native/*.h") + glob("native/plain/*.h"),
    include_dirs=["native/plain", "native"],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=gnu11", "-O3", "-Wall", "-Wextra"],
    py_limited_api=True,
    optional=True,  # shmsync.calls does the same through cffi
)

setup(
    cffi_modules=[f"native/build.py:{variant}" for variant in ("plain", "traced", "bench")],
    ext_modules=[] if free_threaded else [fast],
    options={} if free_threaded else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
