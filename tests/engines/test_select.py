"""Which engine runs a network: machine, installation, device and precision, nothing else."""

import pytest

from resnest_cli import RuntimeOptions
from resnest_cli.catalog.weights import resolve
from resnest_cli.engines import select
from resnest_cli.engines.openvino import engine as openvino_engine
from resnest_cli.engines.select import open_engine, resolve_engine
from resnest_cli.errors import EngineError

pytest.importorskip("openvino", reason="openvino is not installed (extra fast)")


@pytest.fixture(autouse=True)
def own_choice(monkeypatch):
    """Engines as users have them."""
    monkeypatch.delenv("RESNEST_ENGINE")


def test_what_auto_takes(monkeypatch):
    monkeypatch.setattr(select, "has_gpu", lambda: False)
    assert resolve_engine(RuntimeOptions()) == "openvino"
    assert resolve_engine(RuntimeOptions(device="cpu")) == "openvino"
    assert resolve_engine(RuntimeOptions(device="cuda")) == "torch"
    monkeypatch.setattr(select, "has_gpu", lambda: True)
    assert resolve_engine(RuntimeOptions()) == "torch"
    monkeypatch.setenv("RESNEST_ENGINE", "torch")
    assert resolve_engine(RuntimeOptions(device="cpu")) == "torch"
    with pytest.raises(EngineError, match="`engine=torch` for `device=cuda`"):
        resolve_engine(RuntimeOptions(engine="openvino", device="cuda"))


def test_without_openvino_auto_is_torch_and_the_pip_command_is_named(monkeypatch):
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    assert resolve_engine(RuntimeOptions(device="cpu")) == "torch"
    with pytest.raises(EngineError, match=r"pip install 'resnest-cli\[fast\]'"):
        resolve_engine(RuntimeOptions(engine="openvino"))


def test_a_precision_that_the_processor_lacks_is_torchs(monkeypatch):
    monkeypatch.setattr(openvino_engine, "supported_precisions", lambda: ["fp32"])
    monkeypatch.setattr(
        "resnest_cli.engines.openvino.runtime.supported_precisions", lambda: ["fp32"]
    )
    monkeypatch.setattr(select, "has_gpu", lambda: False)
    assert resolve_engine(RuntimeOptions(precision="bf16")) == "torch"
    with pytest.raises(EngineError, match=r"computes in fp32, not in bf16\n.*`engine=torch`"):
        open_engine(resolve("demo"), RuntimeOptions(engine="openvino", precision="bf16"))
