"""A classifier in another process: forked, spawned, or pickled. It works, or says what to do."""

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import traceback
import warnings

import pytest
import torch

from resnest_cli import Classifier
from resnest_cli.catalog.weights import resolve
from resnest_cli.engines import torch_engine
from resnest_cli.engines.torch_engine import TorchEngine
from resnest_cli.errors import EngineError, UsageError
from resnest_cli.inference.batcher import Batcher
from resnest_cli.model.checkpoint import load_checkpoint
from tests.conftest import FakeEngine, drawn

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here"),
    # of Python 3.12 on, for every fork of a process with threads
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
LONGEST = 60  # seconds
IMAGES = [drawn(seed=seed) for seed in range(5)]


def in_child(work):
    """Fork, and let `work` end without an error there, and in time."""
    sys.stderr.flush()
    if not (child := os.fork()):
        signal.alarm(LONGEST)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def used():
    """A classifier that this process has used."""
    classifier = Classifier("demo", engine="torch")
    classifier(IMAGES[0])
    return classifier


def test_a_forked_child_uses_its_parents_classifier(used):
    alone, among = used(IMAGES[0]), [*used.stream(IMAGES)]

    def work():
        assert used(IMAGES[0]) == alone
        assert [*used.stream(IMAGES)] == among
        in_child(lambda: used(IMAGES[0]))

    in_child(work)
    assert used(IMAGES[0]) == alone


def test_a_forked_child_makes_its_own(used):
    expected = [*used.stream(IMAGES)]
    in_child(lambda: check(Classifier("demo", engine=used.engine.name), expected))


def check(classifier, expected):
    assert [*classifier.stream(IMAGES)] == expected


def test_a_pool_of_forked_processes(used):
    with warnings.catch_warnings(), multiprocessing.get_context("fork").Pool(2) as pool:
        warnings.simplefilter("ignore")
        found = pool.map_async(used, IMAGES).get(LONGEST)
    assert found == [used(image) for image in IMAGES]


@pytest.mark.parametrize("copied", [lambda c: pickle.loads(pickle.dumps(c)), copy.deepcopy])
def test_a_pickled_classifier_is_loaded_again(copied):
    classifier = Classifier("demo", top_k=2, threshold=0.1, exif=False, crop=64)
    again = copied(classifier)
    assert again(IMAGES[0]) == classifier(IMAGES[0])
    assert (again.top_k, again.threshold, again.decode) == (2, 0.1, classifier.decode)


def test_a_classifier_with_an_engine_of_its_own_cannot_be_pickled():
    with pytest.raises(UsageError, match="engine of its own cannot be pickled\nmake it in the"):
        pickle.dumps(Classifier(engine=FakeEngine()))


OPENVINO_IN_CHILDREN = """
import multiprocessing, os, signal, sys
from resnest_cli import Classifier
def check(status):
    assert status == 0, status
def in_child(work):
    if not (child := os.fork()):
        signal.alarm(60)
        work()
        os._exit(0)
    check(os.waitpid(child, 0)[1])
images = sys.argv[1:]
used = Classifier("demo", engine="openvino")
alone, among = used(images[0]), [*used.stream(images)]
def parents():
    assert used(images[0]) == alone
    assert [*used.stream(images)] == among
    in_child(lambda: check(used(images[0]) != alone))
def own():
    assert [*Classifier("demo", engine="openvino").stream(images)] == among
in_child(parents)
in_child(own)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(used, images).get(60) == [used(image) for image in images]
"""


def test_openvino_in_forked_children(images):
    """In a process of its own, as it must not have unloaded a network before."""
    pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
    paths = sorted(images.glob("*.png"))[:5]
    command = [sys.executable, "-W", "ignore", "-c", OPENVINO_IN_CHILDREN, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr


OPENVINO_AFTER_FORK = """
import os, signal, sys, traceback
from resnest_cli import Classifier
from resnest_cli.engines.openvino.runtime import COMPUTING
from resnest_cli.errors import EngineError
used = Classifier("demo", engine="openvino")
used(sys.argv[2])
if sys.argv[1] == "computing":
    COMPUTING.__enter__()  # as another thread does
else:
    Classifier("demo", engine="openvino")(sys.argv[2])
if not os.fork():
    signal.alarm(60)
    for attempt in (lambda: used(sys.argv[2]), lambda: Classifier("demo", engine="openvino")):
        try:
            attempt()
        except EngineError as error:
            assert "\\nstart processes by spawn" in str(error)
        else:
            os._exit(1)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize("when", ["computing", "unloaded"])
def test_openvino_is_refused_where_it_would_hang_after_a_fork(when, drawn_image):
    pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")
    command = [sys.executable, "-W", "ignore", "-c", OPENVINO_AFTER_FORK, when, drawn_image]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_stream_is_not_continued_in_a_forked_child():
    stream = Classifier(engine=FakeEngine(), workers=1).stream(IMAGES * 20)
    next(stream)

    def work():
        with pytest.raises(EngineError, match=r"\ncall `Classifier\.stream` in the process that"):
            next(stream)
        stream.close()

    in_child(work)
    assert len([*stream]) == 99


def test_a_batcher_is_not_used_in_a_forked_child():
    batcher = Batcher(FakeEngine(), 2)

    def work():
        with pytest.raises(EngineError, match="in another process"):
            batcher.submit(None)
        batcher.close()

    in_child(work)
    batcher.close()


@pytest.fixture
def pretended_gpu(monkeypatch):
    """As after a use of CUDA, as far as that is possible without a GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)


def test_a_gpu_is_refused_in_a_forked_child_at_once(pretended_gpu):
    engine = TorchEngine(load_checkpoint(resolve("demo")), "cpu", "fp32")
    engine._cpu, engine._gpu = None, torch_engine.ThreadPoolExecutor(1)  # as on a GPU
    classifier = Classifier(engine=engine)
    words = "forked from one that has used the GPU.*\nstart processes with 'spawn'"

    def work():
        with pytest.raises(EngineError, match=words):
            classifier(IMAGES[0])
        with pytest.raises(EngineError, match=words):
            Classifier("demo", engine="torch")
        Classifier("demo", engine="torch", device="cpu")(IMAGES[0])

    in_child(work)
