"""The house itself: one-way imports, names that agree, pins that agree, a reference that is up to date."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from gateau import digests
from gateau.digests import imported_sources, meaning_digest
from gateau.evaluation.benchmarks.longbench.data_sets import DATA_SETS

from helpers import ROOT, run_script

STAGES = ("data", "scoring", "selection", "training", "evaluation")
RULES = [
    (file.name, name)
    for file in sorted((ROOT / "workflow/rules").glob("*.smk"))
    for name in re.findall(r"^ *rule (\w+):", file.read_text(), re.M)
]


def package_imports(path):
    """Return the dotted names of this package that a module imports."""
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("gateau.")}


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage):
    for path in (ROOT / "scripts/gateau" / stage).rglob("*.py"):
        foreign = {name for name in package_imports(path) if name.split(".")[1] in set(STAGES) - {stage}}
        assert not foreign, f"{path}: {foreign}"


def test_the_ground_floor_imports_no_stage():
    for path in (ROOT / "scripts/gateau").glob("*.py"):
        assert not {name for name in package_imports(path) if name.split(".")[1:2] and name.split(".")[1] in STAGES}


@pytest.mark.parametrize(("file", "rule"), RULES)
def test_rule_script_log_and_results_share_a_name(file, rule):
    assert (ROOT / "scripts" / f"{rule}.py").is_file()
    text = (ROOT / "workflow/rules" / file).read_text()
    body = text.split(f"rule {rule}:")[1].split("\nrule ")[0]
    for needle in (f"/logs/{rule}/", f"/benchmarks/{rule}/"):
        assert needle in body, f"{rule}: {needle}"
    by_name = (f'script("{rule}")' in body and f'code_digest("{rule}.py"' in body) or f', "{rule}")' in body
    assert by_name or f'contrast_params("{rule}")' in body, f"{rule}: neither script nor digest of its code"


def test_planning_imports_nothing_heavy():
    code = (
        "import sys; sys.path.insert(0, 'scripts');"
        "import gateau.errors, gateau.model_files, gateau.digests;"
        "print([m for m in ('torch', 'transformers', 'pandas', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def pins_of(environment):
    """The packages of a conda environment, and their pins in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    listed = yaml.safe_load((ROOT / f"envs/{environment}.yaml").read_text())["dependencies"][-1]["pip"]
    return dict(line.split("==") for line in listed), pins


def requirements(lines):
    return {re.split(r"[<>=\[]", line)[0] for line in lines}


def test_conda_environment_agrees_with_the_pins():
    packages, pins = pins_of("gateau")
    assert packages == {name: pins[name] for name in packages}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = requirements(project["dependencies"])
    assert wanted <= set(pins)
    assert {"flash-attn", "bitsandbytes", "uv"} <= set(pins)
    assert {name for name in wanted if not name.startswith("snakemake")} <= set(packages)


def test_the_environment_of_the_harness_agrees_with_the_pins_and_the_extra():
    packages, pins = pins_of("harness")
    assert packages == {name: pins[name] for name in packages}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert requirements(extras["harness"]) <= set(packages) & requirements(extras["test"])
    third_party = {
        name.split(".")[0]
        for path in imported_sources(ROOT / "scripts/harness.py")
        for name in re.findall(r"^ *(?:import|from) (\w+)", path.read_text(), re.M)
    }
    distributions = {"yaml": "PyYAML", "jinja2": "Jinja2"}
    used = {distributions.get(name, name) for name in third_party}
    # others bring the first four, and the rule draws nothing
    missing = {"PyYAML", "safetensors", "huggingface_hub", "tokenizers", "matplotlib"}
    assert used & set(pins) <= set(packages) | missing


def test_pins_carry_no_address():
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_data_sets_are_named_alike_in_schema_and_library():
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    assert schema["$defs"]["longbench_data_sets"]["items"]["enum"] == list(DATA_SETS)


def test_configuration_reference_is_up_to_date():
    result = run_script("config_reference", "--check")
    assert result.returncode == 0, result.stderr


def test_every_configuration_key_has_a_description_and_a_default():
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())

    def walk(node, path):
        for name, value in node.get("properties", {}).items():
            is_override = path.endswith("experiments.")
            assert is_override or {"description", "default"} <= set(value), path + name
            for inner in (value, *value.get("oneOf", [])):
                walk(inner, f"{path}{name}.")

    walk(schema, "")
    walk(schema["$defs"]["model"]["oneOf"][1], "model.")


def test_config_yaml_spells_out_every_default():
    """config.yaml and the schema's defaults say the same, so that neither has to be read to know the other."""
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())

    def compare(node, value, path):
        for name, inner in node["properties"].items():
            if inner.get("type") == "object" and "properties" in inner:
                compare(inner, value[name], f"{path}{name}.")
            else:
                assert value[name] == inner["default"], path + name

    compare(schema, config, "")


def test_imports_are_found_as_python_finds_them():
    for path in (ROOT / "scripts").rglob("*.py"):
        expected = {file for name in package_imports(path) for file in digests._module_files(name)}
        assert set(digests._imports(path)) == expected, path


def test_code_digest_follows_imports_and_only_these():
    found = {str(path.relative_to(ROOT / "scripts")) for path in imported_sources(ROOT / "scripts/long_pass.py")}
    assert {"long_pass.py", "gateau/scoring/attention.py", "gateau/tables.py", "gateau/errors.py"} <= found
    assert not {name for name in found if "selection" in name or "planted" in name}


def test_the_digest_of_a_rule_follows_the_benchmark_that_it_loads_by_name():
    plain, *others = (
        digests.code_digest("generate.py", *modules)
        for modules in ((), ("gateau.evaluation.benchmarks.needle",), ("gateau.evaluation.benchmarks.mt_bench",))
    )
    assert len({plain, *others}) == 3


def test_digests_follow_contents(tmp_path, monkeypatch):
    (tmp_path / "gateau").mkdir()
    module, script = tmp_path / "gateau/m.py", tmp_path / "s.py"
    monkeypatch.setattr(digests, "SCRIPTS", tmp_path)
    monkeypatch.setattr(digests, "PACKAGE", tmp_path / "gateau")

    def both(source):
        module.write_text(source)
        script.write_text("def f():\n    from gateau.m import x\n")
        digests._imports.cache_clear()
        digests.code_digest.cache_clear()
        return digests.code_digest("s.py"), meaning_digest([module])

    plain, words, code = both("x = 1\n"), both('"""Words."""\nx = 1  # words\n'), both("x = 2\n")
    assert plain[0] != words[0] != code[0]
    assert plain[1] == words[1] != code[1]
    assert len({both(f"f({given})")[1] for given in ("", "''", "[]", "None", "f'{x:{y}}'")}) == 5


def test_what_code_does_is_the_same_in_every_version_of_python(tmp_path):
    """The digests of finished work are found again with another Python; Debian and CI may have one only."""
    source = "class A:\n    def f(self, *, x: int = 0) -> str:\n        return f'{x:>{self.w}} {x!r:<{2}}'\n"
    (tmp_path / "m.py").write_text(source, encoding="utf-8")
    assert meaning_digest([tmp_path / "m.py"]) == "a699f5e4c92ec64e44860cb5319b4588b571778e72d43ea0c28bb7d2c5154044"
