"""Is a SavedModel the one that was exported, and does it do nothing but arithmetic? Asked before it is loaded.

A SavedModel is a program: its operations may read and write files. The manifest finds damage and incomplete copies.
It does not find malice, for who can change the model can change the manifest; the list of operations does: none on
it touches a file, the network or Python, save those with which every SavedModel restores its variables.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from busmt.data.images import write_json
from busmt.errors import ExportError

MANIFEST = "assets.extra/manifest.json"
GRAPH = "saved_model.pb"

_NAMES = """
    Abs Add AddN AddV2 All Any ArgMax ArgMin AssignVariableOp AvgPool BatchDatasetV2 BatchMatMulV2 BiasAdd
    BroadcastTo Cast Ceil ClipByValue Concat ConcatV2 Const Conv2D Conv2DBackpropInput DatasetToSingleElement
    DecodeImage DecodePng DecodeRaw DepthwiseConv2dNative DisableCopyOnRead Einsum Elu EncodePng EnsureShape Equal
    Erf Exp ExpandDims ExtractJpegShape Fill Floor FloorDiv FloorMod FusedBatchNormV3 Gather GatherV2 Greater
    GreaterEqual Identity IdentityN If IgnoreErrorsDataset LeakyRelu Less LessEqual Log Log1p LogicalAnd LogicalNot
    LogicalOr MapDataset MatMul Max MaxPool Maximum Mean MergeV2Checkpoints Min Minimum MirrorPad Mul Neg NoOp
    NotEqual OnesLike OptionsDataset Pack Pad PadV2 PartitionedCall Placeholder Pow Prod Range ReadVariableOp RealDiv
    Reciprocal Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor RestoreV2 ReverseV2 Round Rsqrt SaveV2
    ScaleAndTranslate ScatterNd Select SelectV2 Selu Shape ShardedFilename Sigmoid Sign Size Slice Softmax Softplus
    Softsign Split SplitV Sqrt Square SquaredDifference Squeeze StatefulPartitionedCall StatelessIf StatelessWhile
    StaticRegexFullMatch StopGradient StridedSlice StringJoin StringLength Sub Substr Sum Tanh TensorListFromTensor
    TensorListGetItem TensorListReserve TensorListSetItem TensorListStack TensorSliceDataset Tile TopKV2 Transpose
    Unpack VarHandleOp VarIsInitializedOp Where While ZerosLike
"""
OPERATIONS: frozenset[str] = frozenset(_NAMES.split())
"""Operations that a model may use: all from TensorFlow's own kernels, so that no server must be built with more."""


def write_manifest(version: str | os.PathLike) -> Path:
    """Write the sha256 of every file of a version folder into it; after this nothing in it may change."""
    folder = Path(version)
    path = folder / MANIFEST
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    write_json(path, {"sha256": _checksums(folder)})
    return path


def check_version(version: str | os.PathLike) -> None:
    """Refuse a version folder that is not as it was exported, or that could do more than a model needs.

    Raises:
        ExportError: no manifest, a file that differs, is missing or does not belong there, or an operation that is
            not on the list; it is named.
    """
    folder = Path(version)
    expected = _manifest(folder / MANIFEST)
    found = _checksums(folder)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            kind = "is missing" if name not in found else "has changed" if name in expected else "does not belong there"
            raise ExportError(f"{folder}: {name} {kind}; the copy is damaged or incomplete: copy or export it again")
    unknown = sorted(operations(folder) - OPERATIONS)
    if unknown:
        raise ExportError(f"{folder}: the model uses {', '.join(unknown[:5])}, which busmt does not run")


def operations(version: str | os.PathLike) -> set[str]:
    """Names of all operations in the graph of a SavedModel and in its functions.

    Raises:
        ExportError: the graph cannot be parsed.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    saved, path = saved_model_pb2.SavedModel(), Path(version) / GRAPH
    try:
        saved.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise ExportError(f"{path}: not the graph of a SavedModel") from error
    used: set[str] = set()
    for meta in saved.meta_graphs:
        graph = meta.graph_def
        own = {function.signature.name for function in graph.library.function}
        used |= {node.op for node in graph.node} - own
        used |= {node.op for function in graph.library.function for node in function.node_def} - own
    return used


def _manifest(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["sha256"])
    except FileNotFoundError as error:
        raise ExportError(f"{path}: missing; write the model again with: busmt export RUN --to DIR") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ExportError(f"{path}: damaged manifest; copy or export the model again") from error


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {path.relative_to(folder).as_posix(): _checksum(path) for path in files}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
