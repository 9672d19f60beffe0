"""Read a D-FINE folder that transformers wrote, without duet: `save_pretrained`'s two files.

The folder's numbers are read, its structure must be a shipped one, and nothing of it is run: no
pickle is opened, no repository is asked. What it says of its structure is compared as JSON and
never given to the engine, which would build whatever it asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

from duet.errors import ModelError, together
from duet.families.dfine.architectures import known_architectures
from duet.families.dfine.build import stock_config
from duet.families.dfine.roles import split_roles, without_aliases
from duet.families.opened import ForeignModel, stated_classes
from duet.files import read_json
from duet.increments.state import DetectorState, HeadPart
from duet.increments.tensorfile import read_tensors
from duet.text import shown
from duet.vectors.tensors import Tensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODEL_TYPE = "d_fine"
BACKBONE = "backbone_config"
CLASS_ROWS = "model.enc_score_head.bias"
"""A tensor with one number for each class."""
COUNTER = ".num_batches_tracked"
"""How the names of the only tensors without fractions end."""

# Keys that say how to train, how to start, or who wrote the file, not what the network computes;
# and those that follow from others.
ABOUT = (
    "_name_or_path", "architectures", "chunk_size_feed_forward", "depths", "dtype",
    "embedding_size", "eos_coefficient", "head_dim", "id2label", "initializer_",
    "is_encoder_decoder", "label2id", "label_noise_ratio", "box_noise_scale", "layer_type",
    "matcher_", "num_denoising", "out_features", "problem_type", "return_dict", "stage_names",
    "tie_word_embeddings", "torch_dtype", "transformers_version", "use_focal_loss", "focal_loss_",
    "weight_loss_", "auxiliary_loss", "dropout", "attention_dropout", "activation_dropout",
    "output_",
)  # fmt: skip


def is_dfine(model: ForeignModel) -> bool:
    """Tell whether a folder's `config.json` speaks of D-FINE.

    Raises:
        ModelError: It cannot be read.
    """
    return model.once(_settings).get("model_type") == MODEL_TYPE


def read_detector(
    model: ForeignModel, *, name: str, licence: str
) -> tuple[DetectorState, dict[str, Any]]:
    """Read the detector as the increment ``name``, with JSON-ready facts about the folder.

    Raises:
        ModelError: The folder is incomplete, damaged, of another structure, or not D-FINE.
    """
    tensors, classes, architecture = read_folder(model)
    version = model.once(_settings).get("transformers_version")
    roles = split_roles(tensors, "rows")
    part = HeadPart(classes, roles.own, name)
    state = DetectorState("dfine", architecture, "rows", roles.shared, roles.buffers, (part,))
    facts = {
        "file": model.path.name,
        "architecture": architecture,
        "classes": list(classes),
        "licence": licence,
        "transformers": version if isinstance(version, str) else None,
    }
    return state, facts


def read_folder(model: ForeignModel) -> tuple[Tensors, tuple[str, ...], str]:
    """Return all tensors (float32, one name each), the class names and the architecture.

    Raises:
        ModelError: As `read_detector`.
    """
    path, settings = model.path, model.once(_settings)
    if settings.get("model_type") != MODEL_TYPE:
        raise ModelError(
            f"expected model_type '{MODEL_TYPE}', got {shown(settings.get('model_type'))}",
            where=str(path), remedy="the family dfine reads D-FINE detectors only",
        )  # fmt: skip
    if not (path / WEIGHTS).is_file():
        raise ModelError(
            f"there is no {WEIGHTS}", where=str(path),
            remedy="only safetensors are read: save the model with transformers' save_pretrained",
        )  # fmt: skip
    classes, architecture = _classes(settings, path), _architecture(settings, path)
    tensors = _loaded(read_tensors(path / WEIGHTS)[0], architecture, len(classes), path)
    return tensors, classes, architecture


def _loaded(stored: Tensors, architecture: str, classes: int, path: Path) -> Tensors:
    """Return the tensors in the engine's names of today, float32."""
    rows = stored[CLASS_ROWS].numel() if CLASS_ROWS in stored else None
    if rows not in (None, classes):  # before memory goes into such a network
        raise _not_whole(f"{CONFIG} names {classes} classes, but {WEIGHTS} has {rows} rows", path)
    problems = [f"missing: {CLASS_ROWS}"] if rows is None else []
    problems += [
        f"{name}: got {tensor.dtype}, expected {'a counter' if counts else 'floats'}"
        for name, tensor in stored.items()
        if tensor.is_floating_point() == (counts := name.endswith(COUNTER))
    ]
    if not problems:
        try:
            # Of tensors, not of a folder, in which the engine would look for more files.
            model, report = DFineForObjectDetection.from_pretrained(
                None, config=stock_config(architecture, classes), state_dict=dict(stored),
                dtype="float32", output_loading_info=True,
            )  # fmt: skip
        except Exception as error:  # wrong shapes: half a dozen types
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise _not_whole(f"{WEIGHTS} cannot be read ({told})", path) from error
        found = model.state_dict()
        problems = [
            f"{kind.removesuffix('_keys')}: {item}"
            for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
            for item in sorted(map(str, report[kind]))
        ]
    if problems:
        raise _not_whole(together(problems, summary=f"the tensors do not fit {architecture}"), path)
    return without_aliases({k: v.detach().clone() for k, v in found.items()})


def _not_whole(what: str, path: Path) -> ModelError:
    return ModelError(what, where=str(path), remedy="take the folder from its source again")


def _settings(path: Path, _trust: bool) -> dict[str, Any]:
    remedy = "expected a folder as transformers' save_pretrained writes it"
    return read_json(path / CONFIG, error=ModelError, remedy=remedy)


def _classes(settings: dict[str, Any], path: Path) -> tuple[str, ...]:
    names = settings.get("id2label")
    try:
        found = [names[str(index)] for index in range(len(names))]  # type: ignore[index,arg-type]
    except (TypeError, KeyError):
        found = []
    remedy = f"set the names of the classes in {CONFIG}, one different name per class"
    if not found:
        raise ModelError(
            "id2label names no classes 0, 1, 2, …", where=str(path / CONFIG), remedy=remedy
        )
    return stated_classes(found, str(path / CONFIG), remedy)


def _architecture(settings: dict[str, Any], path: Path) -> str:
    """Return the shipped architecture that computes the same; else say what differs least."""
    theirs = _complete(settings)
    differences = {}
    for name in known_architectures():
        ours = _structure(stock_config(name, 1).to_dict())
        differences[name] = [
            f"{key}: got {shown(theirs.get(key))}, expected {ours[key]!r}"
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


def _complete(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a file's structure; what it leaves out is as in the engine's own defaults."""
    defaults = DFineConfig().to_dict()
    given = settings.get(BACKBONE)
    if given is not None:
        defaults[BACKBONE] = HGNetV2Config().to_dict() if isinstance(given, dict) else {}
    known = {key: value for key, value in settings.items() if key in defaults and key != BACKBONE}
    backbone = defaults[BACKBONE] | (given if isinstance(given, dict) else {})
    return _structure(defaults | known | {BACKBONE: backbone})


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
