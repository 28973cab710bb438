"""Only what pyproject.toml cannot say: which script builds the C modules, and the tag of the
wheel."""

import sysconfig

from setuptools import setup

# The module uses the limited API, so one wheel serves CPython 3.11 and later. The free-threaded
# build has no limited API yet, and setuptools refuses the tag there.
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

setup(
    cffi_modules=[f"native/build.py:{variant}" for variant in ("plain", "traced", "bench")],
    options={} if free_threaded else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
