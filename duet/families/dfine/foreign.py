"""Read a D-FINE folder that transformers wrote, without duet: `save_pretrained`'s two files.

The folder's numbers are read, its structure must be a shipped one, and nothing of it is run: no
pickle is opened, no repository is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from duet.errors import ModelError, together
from duet.families.dfine.architectures import known_architectures
from duet.families.dfine.engine import prepare
from duet.files import read_json

prepare()

from transformers import DFineConfig, DFineForObjectDetection  # noqa: E402  (tamed first)

from duet.families.dfine.build import stock_config  # noqa: E402
from duet.families.dfine.roles import split_roles, without_aliases  # noqa: E402
from duet.increments.state import DetectorState, HeadPart  # noqa: E402
from duet.vectors.tensors import Tensors, require_finite  # noqa: E402

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODEL_TYPE = "d_fine"

# Keys that say how to train, how to start, or who wrote the file, not what the network computes.
ABOUT = (
    "_name_or_path", "architectures", "chunk_size_feed_forward", "depths", "dtype",
    "embedding_size", "eos_coefficient", "id2label", "initializer_", "is_encoder_decoder",
    "label2id", "label_noise_ratio", "box_noise_scale", "layer_type", "matcher_", "num_denoising",
    "out_features", "problem_type", "return_dict", "stage_names", "tie_word_embeddings",
    "torch_dtype", "transformers_version", "use_focal_loss", "focal_loss_", "weight_loss_",
    "auxiliary_loss", "dropout", "attention_dropout", "activation_dropout", "output_",
)  # fmt: skip


def is_dfine(path: Path) -> bool:
    """Tell whether a folder's `config.json` speaks of D-FINE.

    Raises:
        ModelError: It cannot be read.
    """
    return _settings(path).get("model_type") == MODEL_TYPE


def read_detector(path: Path, *, name: str, licence: str) -> tuple[DetectorState, dict[str, Any]]:
    """Read the detector as the increment ``name``, with JSON-ready facts about the folder.

    Raises:
        ModelError: The folder is incomplete, damaged, of another structure, or not D-FINE.
    """
    tensors, classes, architecture = read_folder(path)
    roles = split_roles(tensors, "rows")
    part = HeadPart(classes, roles.own, name)
    state = DetectorState("dfine", architecture, "rows", roles.shared, roles.buffers, (part,))
    facts = {
        "file": path.name,
        "architecture": architecture,
        "classes": list(classes),
        "licence": licence,
        "transformers": _settings(path).get("transformers_version"),
    }
    return state, facts


def read_folder(path: Path) -> tuple[Tensors, tuple[str, ...], str]:
    """Return all tensors (float32, one name each), the class names and the architecture.

    Raises:
        ModelError: As `read_detector`.
    """
    settings = _settings(path)
    if settings.get("model_type") != MODEL_TYPE:
        raise ModelError(
            f"expected model_type '{MODEL_TYPE}', got {settings.get('model_type')!r}",
            where=str(path), remedy="the family dfine reads D-FINE detectors only",
        )  # fmt: skip
    if not (path / WEIGHTS).is_file():
        raise ModelError(
            f"there is no {WEIGHTS}", where=str(path),
            remedy="only safetensors are read: save the model with transformers' save_pretrained",
        )  # fmt: skip
    classes = _classes(settings, path)
    architecture = _architecture(settings, len(classes), path)
    try:
        model, report = DFineForObjectDetection.from_pretrained(
            str(path), config=stock_config(architecture, len(classes)), local_files_only=True,
            use_safetensors=True, dtype="float32", output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # damaged files and wrong shapes: half a dozen types
        raise ModelError(
            f"{WEIGHTS} cannot be read ({type(error).__name__}: {' '.join(str(error).split())})",
            where=str(path), remedy="take the folder from its source again",
        ) from error  # fmt: skip
    problems = [
        f"{kind.removesuffix('_keys')}: {item}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        for item in sorted(map(str, report[kind]))
    ]
    if problems:
        raise ModelError(
            together(problems[:20], summary=f"the tensors do not fit {architecture}"),
            where=str(path), remedy="take the folder from its source again",
        )  # fmt: skip
    tensors = without_aliases({k: v.detach().clone() for k, v in model.state_dict().items()})
    require_finite(tensors, str(path))
    return tensors, classes, architecture


def _settings(path: Path) -> dict[str, Any]:
    remedy = "expected a folder as transformers' save_pretrained writes it"
    return read_json(path / CONFIG, error=ModelError, remedy=remedy)


def _classes(settings: dict[str, Any], path: Path) -> tuple[str, ...]:
    names = settings.get("id2label")
    try:
        classes = tuple(str(names[str(index)]) for index in range(len(names)))  # type: ignore[index,arg-type]
    except (TypeError, KeyError):
        classes = ()
    if not classes:
        raise ModelError(
            "id2label names no classes 0, 1, 2, …", where=str(path / CONFIG),
            remedy="set the names of the classes in config.json",
        )  # fmt: skip
    return classes


def _architecture(settings: dict[str, Any], classes: int, path: Path) -> str:
    """Return the shipped architecture that computes the same; else say what differs least."""
    try:
        theirs = _structure(DFineConfig(**settings).to_dict())
    except Exception as error:  # the engine's own checks raise several types
        raise ModelError(
            f"the engine refuses {CONFIG} ({type(error).__name__})", where=str(path),
            remedy="expected a folder as transformers' save_pretrained writes it",
        ) from error  # fmt: skip
    differences = {}
    for name in known_architectures():
        ours = _structure(stock_config(name, classes).to_dict())
        differences[name] = [
            f"{key}: got {theirs.get(key)!r}, expected {ours[key]!r}"
            for key in sorted(ours)  # keys that the engine no longer knows change nothing
            if ours[key] != theirs.get(key)
        ]
        if not differences[name]:
            return name
    nearest = min(differences, key=lambda name: len(differences[name]))
    raise ModelError(
        together(
            differences[nearest][:10],
            summary=f"the network is none of the shipped ones; from {nearest} it differs in",
        ),
        where=str(path / CONFIG),
        remedy=f"shipped: {', '.join(known_architectures())}",
    )


def _structure(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return what the network computes as flat keys, the backbone's included."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key.startswith(ABOUT):
            continue
        if isinstance(value, dict):
            flat |= _structure(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
