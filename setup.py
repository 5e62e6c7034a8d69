"""Builds the C++ kernels of `srigl_jax.condensed.native`; the rest is pyproject.toml.

They are optional: without a compiler, or without jaxlib's headers, the package installs
without them and runs its XLA form instead.
"""

import platform

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = "srigl_jax/condensed/csrc"
# Each set of kernels is compiled for its own instructions and chosen at run time, so
# the library runs on any machine of its architecture.
INSTRUCTIONS = {
    "arrange": [],
    "ffi": [],
    "run": [],
    "kernels_plain": [],
}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTIONS |= {
        "kernels_avx2": ["-mavx2", "-mfma"],
        "kernels_avx512": [
            *("-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512bw"),
            *("-mavx512dq", "-mprefer-vector-width=512"),
        ],
    }


class BuildKernels(build_ext):
    """Compiles every source with its own flags."""

    def build_extension(self, extension):
        """Compiles and links, or says in one line why there will be no kernels."""
        try:
            import jaxlib

            include = f"{jaxlib.__path__[0]}/include"
            objects = []
            for name, flags in INSTRUCTIONS.items():
                objects += self.compiler.compile(
                    [f"{SOURCES}/{name}.cc"],
                    output_dir=self.build_temp,
                    extra_postargs=[
                        *("-std=c++17", "-O3", "-g0", "-fPIC", "-isystem", include),
                        *flags,
                    ],
                )
            self.compiler.link_shared_object(
                objects, self.get_ext_fullpath(extension.name), target_lang="c++"
            )
        except Exception as error:
            self.warn(
                f"srigl_jax installs without its C++ kernels ({error}); condensed "
                "layers will run in the slower XLA form. For the kernels, install "
                "g++ 12 or newer, or clang++, and install srigl_jax again."
            )


setup(
    ext_modules=[
        Extension(
            "srigl_jax.condensed._kernels",
            [f"{SOURCES}/{name}.cc" for name in INSTRUCTIONS],
            depends=[
                f"{SOURCES}/{name}.h"
                for name in ("arrange", "kernels", "kernels_impl", "run", "work")
            ],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
