"""Imports point downwards only, and nothing heavy is imported for --help."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"indexer_lab", "indexer_kernels", "indexer_probes", "indexer_figures"}
ALLOWED = {
    "kernels/indexer_kernels": {"indexer_kernels", "torch", "triton", "numpy"},
    "probes/indexer_probes": {
        "indexer_probes",
        "torch",
        "transformers",
        "huggingface_hub",
        "safetensors",
    },
    "figures/indexer_figures": {"indexer_figures", "numpy", "pandas", "matplotlib", "seaborn"},
}


def imported(path):
    """Top-level names that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).split(".")[0])
    return names - set(sys.stdlib_module_names)


@pytest.mark.parametrize("folder", ALLOWED)
def test_lower_packages_import_only_what_they_may(folder):
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) <= ALLOWED[folder], path


def test_only_the_command_line_imports_click():
    for path in (ROOT / "indexer_lab").rglob("*.py"):
        if "cli" not in path.parts:
            assert not imported(path) & {"click", "rich"} or path.name == "progress.py", path


def test_nothing_below_the_command_line_imports_it():
    for path in (ROOT / "indexer_lab").rglob("*.py"):
        if "cli" not in path.parts and path.name != "__main__.py":
            assert "indexer_lab.cli" not in path.read_text(encoding="utf-8"), path


def test_help_imports_nothing_heavy():
    program = (
        "import sys; from click.testing import CliRunner; from indexer_lab.cli import main;"
        "r = CliRunner().invoke(main, ['--help']); assert r.exit_code == 0, r.output;"
        "heavy = {'torch', 'pandas', 'numpy', 'transformers', 'pyarrow'} & set(sys.modules);"
        "assert not heavy, heavy; print(r.output)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "capture" in done.stdout


def test_the_folder_kernels_is_no_package():
    assert not (ROOT / "kernels" / "__init__.py").exists()
