"""Calibration: a checkpoint with the same ranks and better probabilities."""

import numpy as np
import pytest
from safetensors import safe_open

from resnest_cli import Classifier, evaluate
from resnest_cli.catalog.demo import demo_checkpoint


def test_a_calibrated_checkpoint_divides_the_logits_and_records_the_temperature(data, tmp_path):
    path = tmp_path / "calibrated.safetensors"
    before = evaluate(data, "demo")
    result = before.calibrate(path)
    fitted = result.temperature
    assert fitted.loss_after < fitted.loss_before == before.metrics.loss
    after = evaluate(data, path)
    assert after.logits * fitted.temperature == pytest.approx(before.logits, rel=1e-4, abs=1e-4)
    assert (np.argsort(after.logits) == np.argsort(before.logits)).all()
    assert after.metrics.loss == pytest.approx(fitted.loss_after)
    assert after.metrics.calibration.expected_error == pytest.approx(fitted.error_after)
    shipped = before.config.temperature
    assert after.config.temperature == pytest.approx(shipped * fitted.temperature)
    assert after.config.labels == before.config.labels


def test_weights_of_16_bits_stay_so(data, tmp_path):
    path = tmp_path / "calibrated.safetensors"
    evaluate(data, "demo").calibrate(path)
    with safe_open(demo_checkpoint(), "pt") as old, safe_open(path, "pt") as new:
        for key in old.keys():  # noqa: SIM118
            a, b = old.get_tensor(key), new.get_tensor(key)
            if key.startswith("fc."):
                assert b.dtype.itemsize == 4
            else:
                assert a.dtype == b.dtype
                assert (a == b).all()


def test_few_images_are_warned_about(data, tmp_path, caplog):
    evaluate(data, "demo").calibrate(tmp_path / "calibrated.safetensors")
    assert "unreliable" in caplog.text


def test_another_class_list_and_preprocessing_are_kept(data, tmp_path):
    names = [f"name {i}" for i in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    classifier = Classifier("demo", labels=tmp_path / "names.txt", preprocess="default", crop=64)
    for index, folder in enumerate(sorted(data.iterdir())):
        folder.rename(data / names[index])
    evaluate(data, classifier, calibrate=tmp_path / "calibrated.safetensors")
    config = Classifier(tmp_path / "calibrated.safetensors").config
    assert list(config.labels.names) == names
    assert config.preprocessing.crop == 64
