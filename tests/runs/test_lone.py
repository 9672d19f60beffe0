"""A last batch of one image at a small size is refused before any training."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from factories_series import make_dataset, make_series
from places import REPO

from duet.cli.main import cli
from duet.errors import ConfigError
from duet.runs.learnable import require_company
from duet.training.schedule import Schedule

WEIGHTS = REPO / "weights" / "yolo11n-emoji.safetensors"


@pytest.mark.parametrize(
    ("images", "batch", "size", "architecture", "refused"),
    [
        (9, 4, 32, "yolo11n.yaml", True),
        (1, 4, 32, "yolo11n.yaml", True),
        (3, 1, 32, "yolo11n.yaml", True),
        (8, 4, 32, "yolo11n.yaml", False),
        (10, 4, 32, "yolo11n.yaml", False),
        (4, 4, 32, "yolo11n.yaml", False),
        (9, 4, 64, "yolo11n.yaml", False),
        (9, 4, 32, "rtdetr-l.yaml", True),
        (9, 4, 64, "yolov5n6.yaml", True),
        (9, 4, 96, "yolov8n-p6.yaml", True),
        (9, 4, 128, "yolov8n-p6.yaml", False),
        (9, 4, 64, "yolo26n.yaml", False),
        (9, 4, 64, "yolov6n.yaml", False),
    ],
)
def test_the_rule_is_that_of_the_engine(
    images: int, batch: int, size: int, architecture: str, refused: bool
) -> None:
    schedule = Schedule(batch=batch, image_size=size)
    stages = {"base": 8 * batch, "third": images}
    if not refused:
        require_company(stages, schedule, architecture)
        return
    with pytest.raises(ConfigError, match=f"third: {images} images") as caught:
        require_company(stages, schedule, architecture)
    advice = str(caught.value.remedy)
    assert "image_size: " in advice
    if "--batch" in advice:
        better = int(advice.split("--batch ")[1].split(",")[0])
        require_company(stages, Schedule(batch=better, image_size=size), architecture)
    else:
        assert images == 1


@pytest.mark.parametrize("command", ["dry-run", "run", "base"])
def test_nothing_is_written_before_the_refusal(tmp_path: Path, command: str) -> None:
    make_dataset(tmp_path / "d", counts={"train": 10, "val": 2}, names=["cat", "dog"])
    increments = [
        {"name": name, "domain": "d", "data": "d", "classes": [name]} for name in ("cat", "dog")
    ]
    (tmp_path / "d" / "images" / "train" / "train1.png").unlink()  # 5 with a cat, 4 with a dog
    series = make_series(tmp_path, increments)
    schedule = {"epochs": 1, "batch": 4, "image_size": 32, "fisher_images": 0}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(schedule))
    options = [str(series), "--train", str(tmp_path / "t.yaml"), "--weights", str(WEIGHTS)]
    options += ["--architecture", "yolo11n.yaml", "--out", str(tmp_path / "out")]
    options += ["--dry-run"] if command == "dry-run" else []
    name = "base" if command == "base" else "run"
    outcome = CliRunner().invoke(cli, [name, *options])
    assert isinstance(outcome.exception, ConfigError)
    assert "5 images" in str(outcome.exception)
    assert not (tmp_path / "out").exists()
