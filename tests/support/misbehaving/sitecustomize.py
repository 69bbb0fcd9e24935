"""Put on PYTHONPATH by a test: makes the tokeniser of wordllama die, hang or wait for some texts, or its encoder die.

A text with "cyanide" kills the process, "hang" takes an hour, "wait for PATH" lasts until that file exists. A batch of
more texts than MOST_ROWS kills the process, as the kernel does when memory runs out. This stands for what native
decoders do to a process. The product knows nothing of it.
"""

import importlib.abc
import importlib.util
import os
import re
import signal
import sys
import time

_TARGET = "pipelines.encoders.families.wordllama"


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != _TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            _spoil(module.WordLlamaPreparer)
            if "MOST_ROWS" in os.environ:
                _limit(module.BagEncoder, int(os.environ["MOST_ROWS"]))

        spec.loader.exec_module = exec_module
        return spec


def _spoil(preparer):
    prepare = preparer.prepare

    def prepare_or_die(self, values):
        if any("cyanide" in str(value) for value in values):
            os.kill(os.getpid(), signal.SIGKILL)
        if any("hang" in str(value) for value in values):
            time.sleep(3600)
        for path in re.findall(r"wait for (\S+)", " ".join(map(str, values))):
            while not os.path.exists(path):  # noqa: PTH110 - pathlib would make every start of Python slower
                time.sleep(0.02)
        return prepare(self, values)

    preparer.prepare = prepare_or_die


def _limit(encoder, most_rows):
    encode = encoder.encode

    def encode_or_die(self, prepared):
        if len(prepared) > most_rows:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(self, prepared)

    encoder.encode = encode_or_die


sys.meta_path.insert(0, _Finder())
