"""A small run, for what tests whole runs in this process."""

import pytest

from tests.support.lines import LINES


@pytest.fixture
def own_text(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("".join(LINES), encoding="utf-8")
    return str(path)


@pytest.fixture
def settings(model_folder, own_text, tmp_path):
    return {
        "model_name_or_path": str(model_folder),
        "train_file": [own_text],
        "block_size": 32,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 12,
        "save_steps": 4,
        "logging_steps": 5,
        "learning_rate": 3e-3,
        "precision": "fp32",
        "output_dir": str(tmp_path / "out"),
    }
