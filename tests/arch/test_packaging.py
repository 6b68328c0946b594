"""The five plain top-level names must be ours alone: another distribution's would silently shadow them."""

from __future__ import annotations

import importlib
import importlib.metadata

import pytest

from .test_layers import PACKAGES, ROOT

DISTRIBUTION = "sora-node"


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_name_maps_to_our_tree(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__ is not None
    assert module.__file__.startswith(str(ROOT)), f"{package} comes from {module.__file__}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_claims_the_name(package: str) -> None:
    owners = set(importlib.metadata.packages_distributions().get(package, ()))
    if not owners:
        pytest.skip("sora-node is not installed here; make test installs it")
    assert owners == {DISTRIBUTION}
