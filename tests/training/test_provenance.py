import shutil

import pytest

from training import provenance


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git: apt install git")
def test_the_commit_is_that_of_this_code():
    found = provenance.git_commit()
    assert found == "unknown" or len(found.removesuffix("-dirty")) == 40
