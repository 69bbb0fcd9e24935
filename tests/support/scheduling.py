"""Which tests run in the same process under pytest-xdist."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

# They share the lake of a demo, which takes long to make.
DEMO = ("tests/test_docs.py", "tests/jobs/test_demo.py")
# Files below a folder of this kind share a funnel for each home, or trained heads.
FOLDERS = ("tests/pipelines/funnel/", "tests/pipelines/training/")


class FilesTogether(LoadFileScheduling):
    """Keeps tests together that share what takes long to make, those of a file for a start.

    Hands the groups out in the order in which they were collected.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((group[0] for group in (DEMO, *zip(FOLDERS)) if nodeid.startswith(group)), nodeid.split("::")[0])
