"""What is installed and published: version, licence, citation."""

import tomllib
from pathlib import Path

import yaml

import pcm3_jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_the_changelogs_newest():
    newest = next(
        line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")
    )
    assert newest.split()[1] == pcm3_jax.__version__
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]


def test_licence_and_citation_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == PROJECT["project"]["license"] == "Apache-2.0"
    assert [author["name"] for author in citation["authors"]] == ["The pcm3_jax authors"]
    assert "Copyright 2026 The pcm3_jax authors" in (ROOT / "LICENSE").read_text()
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Zhang", "Lin", "Liu"]
    assert paper["title"] in " ".join((ROOT / "README.md").read_text().replace("> ", "").split())


def test_continuous_integration_runs_the_oldest_and_the_newest_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["test"]
    oldest, newest = job["strategy"]["matrix"]["python"]
    assert PROJECT["project"]["requires-python"] == f">={oldest}" and newest == "3.14"
    (test,) = (step for step in job["steps"] if step.get("run") == "bash launch/test.sh")
    assert test["env"] == {"EXTRA": "none"}
