"""The exact names that a file may bear. They are compared as text: being listed runs nothing.

The list holds what Ultralytics' own files hold: layers of torch, layers, heads and models of the
engine, old places of the same classes, and what its trainer leaves beside a network. It is closed,
so that a file which holds anything else is refused with the name instead of being half understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


def _names(module: str, names: str) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for name in names.split())


_TORCH_LAYERS = (
    _names("torch.nn.modules.activation", "ELU GELU Hardsigmoid Hardswish LeakyReLU Mish "
    "MultiheadAttention PReLU ReLU ReLU6 SELU Sigmoid SiLU Softmax Softplus Tanh")
    | _names("torch.nn.modules.batchnorm", "BatchNorm1d BatchNorm2d SyncBatchNorm")
    | _names("torch.nn.modules.container", "ModuleDict ModuleList ParameterDict ParameterList "
    "Sequential")
    | _names("torch.nn.modules.conv", "Conv1d Conv2d ConvTranspose2d")
    | _names("torch.nn.modules.dropout", "Dropout Dropout2d")
    | _names("torch.nn.modules.flatten", "Flatten Unflatten")
    | _names("torch.nn.modules.instancenorm", "InstanceNorm2d")
    | _names("torch.nn.modules.linear", "Identity Linear NonDynamicallyQuantizableLinear "
    "_LinearWithBias")
    | _names("torch.nn.modules.loss", "BCEWithLogitsLoss CrossEntropyLoss MSELoss")
    | _names("torch.nn.modules.normalization", "GroupNorm LayerNorm RMSNorm")
    | _names("torch.nn.modules.padding", "ZeroPad2d")
    | _names("torch.nn.modules.pixelshuffle", "PixelShuffle PixelUnshuffle")
    | _names("torch.nn.modules.pooling", "AdaptiveAvgPool2d AdaptiveMaxPool2d AvgPool2d MaxPool2d")
    | _names("torch.nn.modules.sparse", "Embedding")
    | _names("torch.nn.modules.upsampling", "Upsample UpsamplingNearest2d")
    | _names("torch.nn.parallel.data_parallel", "DataParallel")
    | _names("torch.nn.parallel.distributed", "DistributedDataParallel _BucketCapacityConfig")
)  # fmt: skip

_BLOCKS = (
    "A2C2f AAttn ABlock AConv ADown Attention BNContrastiveHead Bottleneck BottleneckCSP C1 C2 "
    "C2PSA C2f C2fAttn C2fCIB C2fPSA C3 C3Ghost C3TR C3f C3k C3k2 C3x CBFuse CBLinear CIB "
    "ContrastiveHead DFL ELAN1 GhostBottleneck HGBlock HGStem ImagePoolingAttn "
    "MaxSigmoidAttnBlock PSA PSABlock Proto Proto26 RealNVP RepBottleneck RepC3 RepCSP "
    "RepNCSPELAN4 RepVGGDW ResNetBlock ResNetLayer Residual SAVPE SCDown SPP SPPELAN SPPF SwiGLUFFN"
)
_CONVOLUTIONS = (
    "CBAM ChannelAttention Concat Conv Conv2 ConvTranspose DWConv DWConvTranspose2d Focus "
    "GhostConv Index LightConv RepConv SpatialAttention"
)
_HEADS = (
    "Classify Depth Detect LRPCHead OBB OBB26 Pose Pose26 RTDETRDecoder Segment Segment26 "
    "SemanticSegment WorldDetect YOLOEDetect YOLOESegment YOLOESegment26 v10Detect"
)
_TRANSFORMERS = (
    "AIFI DeformableTransformerDecoder DeformableTransformerDecoderLayer LayerNorm2d MLP MLPBlock "
    "MSDeformAttn TransformerBlock TransformerEncoderLayer TransformerLayer"
)
_MODELS = (
    "ClassificationModel DepthModel DetectionModel OBBModel PoseModel RTDETRDetectionModel "
    "SegmentationModel SemanticSegmentationModel WorldModel YOLOEModel YOLOESegModel"
)
_LOSSES = (
    "BboxLoss DFLoss E2EDetectLoss E2ELoss FocalLoss KeypointLoss RotatedBboxLoss VarifocalLoss "
    "v8ClassificationLoss v8DetectionLoss v8OBBLoss v8PoseLoss v8SegmentationLoss"
)

_ENGINE = (
    _names("ultralytics.nn.modules.block", _BLOCKS)
    | _names("ultralytics.nn.modules.conv", _CONVOLUTIONS)
    | _names("ultralytics.nn.modules.head", _HEADS)
    | _names("ultralytics.nn.modules.transformer", _TRANSFORMERS)
    | _names("ultralytics.nn.modules.activation", "AGLU")
    | _names("ultralytics.nn.modules", f"{_BLOCKS} {_CONVOLUTIONS} {_HEADS}")  # until 8.0.92
    | _names("ultralytics.nn.tasks", _MODELS)
    | _names("ultralytics.utils", "IterableSimpleNamespace")
    | _names("ultralytics.yolo.utils", "IterableSimpleNamespace")  # until 8.0.136
    | _names("ultralytics.utils.loss", _LOSSES)
    | _names("ultralytics.yolo.utils.loss", _LOSSES)
    | _names("ultralytics.yolo.v8.detect.train", "Loss")  # until 8.0.91
    | _names("ultralytics.utils.tal", "RotatedTaskAlignedAssigner TaskAlignedAssigner")
    | _names("ultralytics.yolo.utils.tal", "TaskAlignedAssigner")
    | _names("types", "SimpleNamespace")
    | _names("argparse", "Namespace")
)

SETTINGS = _names("torch.distributed.algorithms.join", "_JoinConfig")
"""Named tuples, which Python writes as objects made of values; they say nothing of a network."""

OBJECTS = _TORCH_LAYERS | _ENGINE | SETTINGS
"""Classes whose objects become `Stub`s."""

NAMESPACES = frozenset(
    {
        "argparse.Namespace", "types.SimpleNamespace", "ultralytics.utils.IterableSimpleNamespace",
        "ultralytics.yolo.utils.IterableSimpleNamespace",
    }
)  # fmt: skip
"""Those that Python writes as a call without arguments."""

STORAGES: Mapping[str, str] = MappingProxyType(
    {
        "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
        "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
        "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
        "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
        "ComplexDoubleStorage": "complex128",
    }
)  # fmt: skip
"""Names of torch's typed storages and the numbers in them."""

VALUES = (
    frozenset(f"torch.{name}" for name in (*STORAGES, *STORAGES.values()))
    | _names("torch", "half float double long int short bool strided contiguous_format Tensor "
    "channels_last")
    | _names("numpy", "ndarray")
    | _names("torch._C._nn", "gelu")
    | _names("torch.nn.functional", "gelu relu silu")
)  # fmt: skip
"""Other names that may stand in the data; nothing is built of them."""
