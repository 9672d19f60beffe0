"""`Detector`: what is learned, merged, edited, run, measured, exported and saved, in one object."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from duet.defaults import AGNOSTIC, IOU, Agnostic
from duet.detections import Detections
from duet.devices import one_place
from duet.errors import ModelError
from duet.images import Image
from duet.inference.detector import DetectorFacts, LoadedDetector
from duet.inference.load import facts_of, running
from duet.objects.grid import Grid, Shown, Told, some
from duet.progress import Progress, counted

# What merges, trains and evaluates is imported on use: an exported file runs without torch.
if TYPE_CHECKING:
    from duet.inference.stream import Stream
    from duet.merging.trace import MergeTrace
    from duet.objects.evaluation import Evaluation
    from duet.objects.series import SeriesFile
    from duet.recipes.edits import Edit
    from duet.recipes.model import Model


@dataclass(frozen=True, repr=False, eq=False)
class Detector(Shown):
    """A detector. Edits give a new one in memory; only `save` and `export` write.

    Attributes:
        model: It as data; None for an exported file, which can only be run.
        device: Where it runs, in the language of `duet.devices.parse_device`.
        loaded: It as something that runs, if it came as such.
        file: Of an exported one.

    Example:
        >>> detector = duet.load("runs/shop/models/duet-plus/2-night")
        >>> detector("photo.jpg").names
        >>> detector.scale("night", 0.5).drop("can").save("models/shop")
    """

    model: Model | None
    device: str = "cpu"
    loaded: LoadedDetector | None = field(default=None, repr=False)
    file: Path | None = None

    # ---- what it is --------------------------------------------------------------------------

    @functools.cached_property
    def facts(self) -> DetectorFacts:
        """Fingerprint, licence, image size, increments with their classes."""
        if self.model is None:
            assert self.loaded is not None
            return self.loaded.facts
        return facts_of(self.model.file)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.facts.classes

    @property
    def increments(self) -> tuple[str, ...]:
        """Names of what went into it, oldest first."""
        return tuple(name for name, _ in self.facts.increments)

    @property
    def path(self) -> Path | None:
        """Its folder; None as long as it is in memory alone."""
        return self.model.folder if self.model is not None and self.model.saved else None

    @property
    def traces(self) -> tuple[MergeTrace, ...]:
        """What each merge did to each tensor, oldest first."""
        return self._model("its merges").traces

    @property
    def trace(self) -> MergeTrace:
        """The last of `traces`.

        Raises:
            ModelError: Nothing was merged.
        """
        if not self.traces:
            raise ModelError("nothing was merged into this detector", where=self._named)
        return self.traces[-1]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know before relying on it: what a merge or an edit found."""
        return self.model.remarks if self.model is not None else ()

    # ---- looking -----------------------------------------------------------------------------

    @property
    def runtime(self) -> str:
        """Program that looks at images: ``torch``, ``onnx``, ``openvino`` or ``torchscript``."""
        return self.loaded.runtime if self.loaded is not None else "torch"

    @functools.cached_property
    def _runtime(self) -> LoadedDetector:
        if self.loaded is not None:
            return self.loaded
        return running(self._model("running").file, self.device)

    @overload
    def __call__(
        self, images: Image | str | Path, *, confidence: float | None = ..., iou: float = ...,
        agnostic: Agnostic = ...,
    ) -> Detections: ...  # fmt: skip

    @overload
    def __call__(
        self, images: list[Any] | tuple[Any, ...], *, confidence: float | None = ...,
        iou: float = ..., agnostic: Agnostic = ...,
    ) -> list[Detections]: ...  # fmt: skip

    def __call__(
        self,
        images: Image | str | Path | list[Any] | tuple[Any, ...],
        *,
        confidence: float | None = None,
        iou: float = IOU,
        agnostic: Agnostic = AGNOSTIC,
    ) -> Detections | list[Detections]:
        """Detect objects in one image or in many.

        Args:
            images: ``(H, W, 3)`` uint8 BGR as OpenCV gives it, the path of an image file, or a
                list of either.
            confidence: Lowest score that counts, ``[0, 1]``; by default the detector's own of each
                class (``facts.thresholds``), and 0.25 where it has none.
            iou: Boxes of one class that overlap more are one object, ``[0, 1]``.
            agnostic: Which classes suppress each other's boxes where they overlap by more than
                0.7: ``"all"``, those of different ``"increments"``, or ``"off"``.

        Returns:
            `Detections` with boxes as ``xyxy`` px of the image; a list of them for a list.

        Raises:
            ConfigError: A threshold is out of range, or there is no such ``agnostic``.
            DataError: Not an image.
        """
        look = functools.partial(self._runtime, confidence=confidence, iou=iou, agnostic=agnostic)
        return [*map(look, images)] if isinstance(images, (list, tuple)) else look(images)

    def stream(self, source: str | Path | int, **options: Any) -> Stream:
        """Detect objects in a video, webcam or network stream, frame by frame.

        Args:
            source: Path of a video, number of a webcam, or URL.
            options: See `duet.inference.options.Options`: ``confidence``, ``iou``,
                ``agnostic``, ``track``, ``newest``, ``frames``, ``seconds``, ``timeout``,
                ``retry``, ``notify``.

        Returns:
            An iterable of ``(frame, detections)``, which ends by itself with a recording.

        Example:
            >>> for frame, found in detector.stream("rtsp://camera/1", track=True):
            ...     print(frame.time, found.names)
        """
        return self._runtime.stream(source, **options)

    def to(self, device: str) -> Detector:
        """Return the detector on another device: ``cpu``, ``cuda``, ``cuda:1``, ``0``, ``mps``.

        Raises:
            ConfigError: There is no such device.
            ModelError: It is an exported file: open it anew with `duet.load`.
        """
        one_place(device)
        return Detector(self._model("another device"), device)

    def evaluate(
        self, data: SeriesFile | str | Path, *, split: str = "", domain: str | None = None
    ) -> Evaluation:
        """Measure it on every domain of a series or on a data set, per increment and per class.

        Args:
            data: What `duet.read_series` gave, or the path of a series YAML, of a ``data.yaml`` or
                of a folder in a format that duet reads. Domains whose images are gone are left out.
            split: Default test if there is one, else val.
            domain: Of a data set: what its images are called; default the name of its folder.

        Raises:
            DataError: A data set has no such split, or the detector knows no class of the data.
        """
        from duet.objects.evaluation import Evaluation
        from duet.objects.series import there_of
        from duet.runs.cells import evaluate_cells

        model = self._model("an evaluation")
        there = there_of(data, model, domain)
        size = model.manifest.image_size
        cells = evaluate_cells(model.state, there.series, split, size, self.device)
        return Evaluation(tuple(cells), there.reasons, there.unknown)

    def calibrate(
        self,
        series: SeriesFile | str | Path | None = None,
        *,
        images: str | Path | None = None,
        split: str = "val",
        before: str | Path | None = None,
        precision: float | None = None,
    ) -> Detector:
        """Return it with scores that mean something and a threshold per class; no AP changes.

        Arguments and errors are those of `duet.runs.recalibrate.recalibrate`; ``series`` may be
        a data set too, as for `evaluate`.
        """
        from duet.objects.series import there_of
        from duet.runs.recalibrate import recalibrate

        model = self._model("calibration")
        data = there_of(series, model).series if series is not None else None
        found = recalibrate(
            model, model.folder, series=data, split=split, images=images, precision=precision,
            before=None if before is None else Path(before), device=self.device,
        )  # fmt: skip
        return Detector(found.model, self.device)

    # ---- editing -----------------------------------------------------------------------------

    def revert(self, increment: str, *, progress: Progress = True) -> Detector:
        """Return it merged without one of its increments; `remarks` say whether that is exact.

        Raises:
            ConfigError: No such increment, or nothing would be left.
            ModelError: It keeps no recipe, parts of it cannot be found, or others were trained on
                top of the increment and on nothing else.
        """
        from duet.recipes import edits

        return self._merged(edits.revert(self._model("editing"), increment), progress)

    def scale(self, increment: str, factor: float, *, progress: Progress = True) -> Detector:
        """Return it merged with ``factor`` times what an increment changed of the shared weights.

        Args:
            increment: Name of an increment.
            factor: Replaces the factor so far, from -2 to 2; 1 is as it was trained.
            progress: A bar, nothing, or a function.

        Raises:
            ConfigError: No such increment, or the factor is out of range.
            ModelError: It keeps no recipe, or parts of it cannot be found.
        """
        from duet.recipes import edits

        return self._merged(edits.rescale(self._model("editing"), increment, factor), progress)

    def _merged(self, edit: Edit, progress: Progress) -> Detector:
        from duet.objects.merged import merged
        from duet.recipes.prepared import Prepared

        verdict = f"{'exact' if edit.exact else 'not exact'}: {edit.why}"
        return Detector(merged(Prepared(edit.plan), progress, (verdict,)), self.device)

    def drop(self, *classes: str) -> Detector:
        """Return it without some classes; the weights of all others stay the same to the bit.

        Raises:
            ConfigError: Unknown classes, or no class would be left.
        """
        from duet.increments.store import DetectorFile
        from duet.recipes.drop import without_classes
        from duet.recipes.model import Model

        model = self._model("editing")
        found = without_classes(model, classes, model.folder)
        file, told = DetectorFile(found.state, found.manifest), (*model.remarks, *found.remarks)
        return Detector(Model(file, model.folder, False, model.traces, told), self.device)

    # ---- history -----------------------------------------------------------------------------

    def log(self) -> Told:
        """Return what it was merged from, how, and whether it could be merged again."""
        from duet.recipes.log import read_history
        from duet.recipes.texts import log_text

        found = read_history(self._history())
        return Told(found, found, log_text)

    def diff(self, other: Detector | str | Path) -> Told:
        """Return how another detector differs from it: classes, recipe, weights, statistics."""
        from duet.recipes.diff import compare_models
        from duet.recipes.texts import diff_text

        theirs = other._history() if isinstance(other, Detector) else Path(other)
        found = compare_models(self._history(), theirs)
        return Told(found, found, diff_text)

    # ---- writing -----------------------------------------------------------------------------

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Detector:
        """Write a detector folder; return the detector that lies there.

        Raises:
            DuetError: The folder is in the way, or the file system refuses the write.
        """
        from duet.increments.store import save_detector
        from duet.recipes import edits
        from duet.recipes.write import stored_recipe

        model, out = self._model("saving"), Path(folder)
        manifest = model.manifest
        if manifest.recipe is not None:
            recipe = edits.kept_recipe(manifest, model.folder).absolute(model.folder)
            manifest = manifest.model_copy(update={"recipe": stored_recipe(recipe, out)})
        manifest = save_detector(
            out, model.state, manifest, traces=model.traces, overwrite=overwrite
        )
        file = replace(model.file, manifest=manifest)
        return Detector(replace(model, file=file, folder=out, saved=True), self.device)

    def export(
        self,
        path: str | Path,
        form: str | None = None,
        *,
        dynamic: bool = False,
        overwrite: bool = False,
        progress: Progress = True,
    ) -> Path:
        """Write it as one file that other programs run, kept only if it computes the same.

        Args:
            path: File or folder to write; `parity.json` is written beside it.
            form: ``pt``, ``onnx``, ``torchscript``, ``openvino`` …; default what the name says.
            dynamic: Let the file take batches of any size.
            overwrite: Replace an older export.
            progress: A bar, nothing, or a function.

        Returns:
            The path.

        Raises:
            ConfigError: Unknown form, or ``path`` exists.
            ModelError: The exported file computes something else.
            MissingExtraError: Packages for the form are not installed.
        """
        from duet.export.export import export_detector
        from duet.export.formats import form_of

        model, target = self._model("an export"), Path(path)
        chosen = form or form_of(target)
        with counted(f"exporting {chosen}", progress) as step:
            export_detector(
                model.file, target, chosen, dynamic=dynamic, overwrite=overwrite, progress=step
            )  # fmt: skip
        return target

    # ---- inside ------------------------------------------------------------------------------

    @property
    def _named(self) -> str:
        return str(self.path or self.file or "in memory")

    def _model(self, what: str) -> Model:
        if self.model is None:
            raise ModelError(
                f"an exported file can be run, but {what} needs the detector's own weights",
                remedy="give the detector folder that the file was exported from",
            )
        return self.model

    def _history(self) -> Path | Model:
        """Return what tells of its past: a folder, whose files are looked at, or it in memory."""
        return self.path or self._model("its history")

    def _grid(self) -> Grid:
        rows = tuple(
            (name, str(len(classes)), some(classes)) for name, classes in self.facts.increments
        )
        foot: tuple[str, ...] = (f"{self.facts.image_size} px, licence {self.facts.licence}",)
        if self.model is not None:
            state, recipe = self.model.state, self.model.manifest.recipe
            size = sum(t.numel() * t.element_size() for t in state.to_tensors().values())
            how = f"merged by {recipe.get('method', 'duet')}" if recipe else "keeps no recipe"
            start = f", start {recipe['weights']}" if recipe and recipe.get("weights") else ""
            about = f"{state.architecture}, {state.head}, {size / 1e6:.1f} MB"
            foot = (f"{about}, {foot[0]}", f"{how}{start}", *self.remarks)
        heading = f"detector of {len(self.classes)} classes ({self._named})"
        return Grid(heading, ("increment", "classes", "names"), rows, words=3, foot=foot)
