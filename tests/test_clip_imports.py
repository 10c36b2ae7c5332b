"""open_clip, timm and their transforms import beside a CPU-only torch, in a fresh process and in a spawned worker."""

import multiprocessing
import subprocess
import sys

BROKEN = """
import sys, types
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and not Broken.raised:
            Broken.raised = True
            raise RuntimeError({message!r})
Broken.raised = False
sys.meta_path.insert(0, Broken())
try:
    from reactvl.clip_imports import open_clip, timm, torchvision
except RuntimeError as fault:
    print("refused:", fault)
else:
    print(open_clip.__version__, timm.data.create_transform(32, is_training=True) is not None, torchvision.__name__)
"""


def run(message: str) -> str:
    code = BROKEN.format(message=message)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_missing_operators_are_mended():
    assert "True torchvision" in run("operator torchvision::nms does not exist")


def test_another_fault_of_torchvision_is_passed_on():
    assert "refused: out of cheese" in run("out of cheese")


def names(_: int) -> str:
    from reactvl.clip_imports import open_clip

    return open_clip.__name__


def test_a_spawned_worker_imports_it():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(names, [0]) == ["open_clip"]
