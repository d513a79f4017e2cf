"""What setup.cfg cannot say of the package.

What a checkout has next to `comet/`, a wheel has in `comet/data/`. Where mypyc and a C compiler are at hand, a wheel
also has the load balancers' compiled data path, and is one for this platform and version of Python.
"""

import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

DATA = ("docker", "scenarios", "setup.cfg")
"""What `comet.host.checkout.resource` finds: the image's build context, scenarios, the names of its packages."""

HERE = Path(__file__).parent


def compiles() -> bool:
    """Whether this builds a wheel, and can compile for it."""
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    has_compiler = any(shutil.which(name) for name in ("cc", "gcc"))
    return "bdist_wheel" in sys.argv and find_spec("mypyc") is not None and headers and has_compiler


class CometDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return compiles()


class BuildWithData(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "comet", "data")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in DATA:
            source = HERE / name
            if source.is_dir():
                shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target / name)
        if compiles():
            # Where that fails, lb.build says so, and the wheel's load balancers run interpreted.
            place = Path(self.build_lib, "lb", "compiled").resolve()
            subprocess.run([sys.executable, "-m", "lb.build", str(place)], cwd=HERE, check=False)


setup(distclass=CometDistribution, cmdclass={"build_py": BuildWithData})
