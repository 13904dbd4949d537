"""The package's front door: light to import, complete, and nothing else leaks through it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import xreal


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import_loads_no_heavy_package() -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'monai', 'numpy', 'scipy', 'skimage', 'PIL'}"
    assert run_python(f"import sys, xreal; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_names_of_the_vocabulary_load_no_torch() -> None:
    code = "import sys; from xreal import Finding, Organ; print(Finding.PNEUMONIA, 'torch' in sys.modules)"
    assert run_python(code) == "Pneumonia False"


@pytest.mark.parametrize("name", xreal.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(xreal, name) is not None
    assert name in dir(xreal)


def test_public_names_are_sorted_and_no_more() -> None:
    assert xreal.__all__ == ["Finding", "Lesion", "Organ", "XRealPipeline", "XRealPipelineOutput", "__version__"]


def test_unknown_attribute_lists_the_known() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Pipeline'; it offers Finding, Lesion"):
        _ = xreal.Pipeline


def test_version_is_the_distribution_s() -> None:
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    assert tomllib.loads(pyproject.read_text())["project"]["version"] == xreal.__version__


def test_every_constraint_pins_a_named_dependency() -> None:
    """Each package that pyproject.toml names is pinned, at a version its lower bound allows, and none other is."""
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    bounds = dict(requirement.split(">=") for requirement in wanted if ">=" in requirement)
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert bounds.keys() == pins.keys()
    for name, bound in bounds.items():
        assert pins[name] == bound or pins[name].startswith(bound + "."), name
