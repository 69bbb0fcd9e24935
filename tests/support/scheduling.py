"""Which tests run in the same process under pytest-xdist."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

# They share the lake of a demo, which takes long to make.
DEMO = ("tests/test_docs.py", "tests/jobs/test_demo.py")


class FilesTogether(LoadFileScheduling):
    """Keeps the tests of a file together, and hands the files out in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return DEMO[0] if file in DEMO else file
