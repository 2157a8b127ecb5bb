"""Meshes that the tests of faults share. Nine processes start in seconds, so it is done once."""

import pytest
from supervised_meshes import supervised_mesh


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Two replicas of each stage."""
    with supervised_mesh(tmp_path_factory.mktemp("pair"), 2) as mesh:
        yield mesh


@pytest.fixture(scope="session")
def single(tmp_path_factory):
    """One replica of each stage."""
    with supervised_mesh(tmp_path_factory.mktemp("single"), 1) as mesh:
        yield mesh
