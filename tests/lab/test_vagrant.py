"""The Vagrant lab is well formed; its provisioning scripts are the ones this lab runs all the time."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from .lab import PROVISION, ROOT


def test_the_vagrantfile_is_valid() -> None:
    if shutil.which("vagrant") is None:
        pytest.skip("vagrant is not installed (apt-get install vagrant)")
    # without a hypervisor on this machine there is no provider whose settings could be judged
    command = ["vagrant", "validate", "--ignore-provider"]
    done = subprocess.run(command, cwd=ROOT / "vagrant", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validated successfully" in done.stdout


@pytest.mark.parametrize("script", sorted(PROVISION.glob("*.sh")), ids=lambda path: path.name)
def test_the_scripts_are_plain_shell(script: object) -> None:
    done = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
