"""Model files are code until proved otherwise: what is checked before one is loaded.

A model file tells TensorFlow, LiteRT or Keras what to run, and some operations read and write files. So

- a SavedModel and a .tflite file must be, byte by byte, what the manifest beside them (model.json, which
  `busmt export` writes) says: nothing damaged, missing, added or mixed up. One that was copied without its
  manifest is used, and said to be unchecked;
- every operation and every layer must be one that an image network needs; another is refused by its name;
- the weights of a .keras file must lie in that file: HDF5 can point to other files.

The manifest is no signature: whoever can change a model can change its manifest. The lists of operations and
layers are what protects from such a model. See SECURITY.md.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from busmt.data.images import file_hash, read_bytes
from busmt.errors import DataError, RunError

MANIFEST = "model.json"
MAX_MODEL_BYTES = 2**30
"""Largest accepted model file."""
_MAX_JSON_BYTES = 16 * 2**20
_KERAS_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TENSORFLOW_OPS = _names(
    """
    Abs Add AddN AddV2 All Any ArgMax ArgMin Assert AssignVariableOp AvgPool BatchDatasetV2 BatchMatMulV2
    BiasAdd Bitcast BroadcastArgs BroadcastTo Cast Ceil ClipByValue ConcatV2 Const Conv2D Conv2DBackpropInput
    Cumsum DatasetToSingleElement DecodeBmp DecodeImage DecodeJpeg DecodePng DecodeRaw DepthToSpace
    DepthwiseConv2dNative DisableCopyOnRead Div DivNoNan Einsum Elu EmptyTensorList EncodeJpeg EncodePng
    EnsureShape Equal Erf Exp ExpandDims Expm1 ExtractJpegShape Fill Floor FloorDiv FloorMod FusedBatchNormV3
    GatherNd GatherV2 Greater GreaterEqual Identity IdentityN If IgnoreErrorsDataset IsFinite IsInf IsNan L2Loss
    LeakyRelu Less LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr LoopCond MapDataset MatMul Max
    MaxPool Maximum Mean Merge Min Minimum MirrorPad Mul MulNoNan Neg NextIteration NoOp NotEqual OneHot
    OnesLike OptionsDataset Pack Pad PadV2 PartitionedCall Placeholder PlaceholderWithDefault Pow
    PreventGradient Prod Range Rank ReadVariableOp RealDiv Reciprocal Relu Relu6 Reshape ResizeArea
    ResizeBicubic ResizeBilinear ResizeNearestNeighbor ResourceGather ReverseV2 Rint Round Rsqrt
    ScaleAndTranslate ScatterNd Select SelectV2 Selu Shape ShapeN Sigmoid Sign Size Slice Softmax Softplus
    Softsign SpaceToDepth Split SplitV Sqrt Square SquaredDifference Squeeze StatefulPartitionedCall StatelessIf
    StatelessWhile StopGradient StridedSlice StringLength Sub Substr Sum Switch Tanh TensorListConcatV2
    TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem TensorListLength
    TensorListReserve TensorListResize TensorListSetItem TensorListStack TensorSliceDataset Tile TopKV2
    Transpose Unpack VarHandleOp VarIsInitializedOp Where While ZerosLike
    """
)
"""TensorFlow operations that compute and touch nothing else; the data sets among them are made of tensors alone."""
_SAVER_OPS = _names(
    """
    MergeV2Checkpoints RestoreV2 SaveV2 ShardedFilename StaticRegexFullMatch StringJoin
    """
)
"""Read and write files: accepted only where TensorFlow itself keeps the variables, out of every signature's reach."""

TFLITE_OPS = _names(
    """
    ABS ADD ADD_N ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_ARGS BROADCAST_TO CAST CEIL
    CONCATENATION CONV_2D CUMSUM DENSIFY DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV ELU EQUAL EXP
    EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GELU GREATER GREATER_EQUAL
    HARD_SWISH L2_NORMALIZATION LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC
    LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL ONE_HOT PACK PAD PADV2 POW PRELU
    QUANTIZE RANGE RANK REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_0_TO_1
    RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SCATTER_ND SELECT
    SELECT_V2 SHAPE SIGN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE
    STRIDED_SLICE SUB SUM TANH TILE TOPK_V2 TRANSPOSE TRANSPOSE_CONV UNPACK WHERE ZEROS_LIKE
    """
)
"""TFLite's built-in operations that compute and touch nothing else."""

KERAS_LAYERS = _names(
    """
    Activation Add Average AveragePooling2D BatchNormalization Concatenate Conv2D Conv2DTranspose Conv3D Cropping2D
    Dense DepthwiseConv2D Dot Dropout Flatten GaussianNoise GlobalAveragePooling2D GlobalAveragePooling3D
    GlobalMaxPooling2D GroupNormalization Identity InputLayer LayerNormalization LeakyReLU MaxPooling2D MaxPooling3D
    Maximum Minimum Multiply Normalization PReLU Permute ReLU Reshape Rescaling Resizing SeparableConv2D Softmax
    SpatialDropout2D SpatialDropout3D Subtract UpSampling2D UpSampling3D ZeroPadding2D
    """
)
"""Layers of Keras that compute and touch nothing else; busmt's own come to them."""
_KERAS_MODELS = frozenset({"Functional", "Model", "Sequential"})
_KERAS_MODULES = frozenset({"keras.initializers", "keras.regularizers", "keras.constraints", "keras.dtype_policies"})


def check_saved_model(folder: Path) -> bool:
    """Refuse a SavedModel that is not what its manifest says, or that asks for more than computing.

    Args:
        folder: with saved_model.pb in it; its manifest is model.json in the folder above.

    Returns:
        Whether there was a manifest to check it against.

    Raises:
        RunError: which file differs, or which operation is not accepted.
    """
    files = [path for path in sorted(folder.rglob("*")) if not path.is_dir()]
    checked = _check_hashes(folder, files)
    check_graph(folder)
    return checked


def check_graph(folder: Path) -> None:
    """Refuse a SavedModel whose graph is damaged or has an operation that is not accepted; it is named.

    What keeps the variables may read and write files; the rest may not, nor may it call that.

    Raises:
        RunError: which operation, or that the graph cannot be read.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        model = saved_model_pb2.SavedModel.FromString(read_bytes(folder / "saved_model.pb", MAX_MODEL_BYTES))
    except DecodeError as error:
        raise RunError(f"{folder}: not a SavedModel that busmt exported (its saved_model.pb is damaged)") from error
    except DataError as error:
        raise RunError(str(error)) from error
    for graph in model.meta_graphs:
        _check_graph(folder, graph)


def check_tflite(path: Path) -> bool:
    """As `check_saved_model`, for a .tflite file; its manifest is model.json beside it. Needs no TensorFlow."""
    checked = _check_hashes(path, [path])
    try:
        content = read_bytes(path, MAX_MODEL_BYTES)
    except DataError as error:
        raise RunError(str(error)) from error
    _check_operations(path, tflite_operations(content, path), TFLITE_OPS)
    return checked


def check_keras(path: Path) -> None:
    """Refuse a .keras file with a layer that is not accepted, or with weights outside of it.

    Raises:
        RunError: what is not accepted, by its name.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(read_bytes(path, MAX_MODEL_BYTES))) as archive:
            members = {member.filename: member.file_size for member in archive.infolist()}
            if sum(members.values()) > MAX_MODEL_BYTES or members.get("config.json", 0) > _MAX_JSON_BYTES:
                raise RunError(f"{path}: unpacks to more than any model of busmt")
            unknown = set(members) - _KERAS_MEMBERS
            if unknown or len(members) < len(_KERAS_MEMBERS):
                raise RunError(f"{path}: not a Keras model of busmt (it holds {', '.join(sorted(members)[:9])})")
            config, weights = json.loads(archive.read("config.json")), archive.read("model.weights.h5")
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise RunError(f"{path}: cannot be loaded as a Keras model ({type(error).__name__})") from error
    except DataError as error:
        raise RunError(str(error)) from error
    for module, name, registered in _keras_objects(config):
        if not _is_accepted(module, name, registered):
            raise RunError(f"{path}: the layer or object {module}.{name} is not accepted in a model of busmt")
    _check_weights(path, weights)


def check_pictures(pictures: np.ndarray, size: int) -> None:
    """Refuse what no decoder makes: a network answers such input too, with a class.

    Raises:
        DataError: not (B, size, size, 1), float32, in [0, 1].
    """
    if not isinstance(pictures, np.ndarray) or pictures.dtype != np.float32:
        found = getattr(pictures, "dtype", type(pictures).__name__)
        raise DataError(f"network input: must be a float32 array, got {found}")
    if pictures.ndim != 4 or pictures.shape[1:] != (size, size, 1) or not len(pictures):
        raise DataError(f"network input: must have the shape (B, {size}, {size}, 1), got {pictures.shape}")
    if not (np.min(pictures) >= -1e-3 and np.max(pictures) <= 1.001):  # false for NaN; resizing rounds
        raise DataError("network input: must be in [0, 1]; it holds NaN, infinity or other values")


def tflite_operations(content: bytes, source: object = "the content") -> set[str]:
    """Names of the operations in a .tflite file, read without running or preparing it.

    Custom operations go by their own names; those of TensorFlow itself begin with Flex.

    Args:
        content: of the file.
        source: what to call it in an error.

    Raises:
        RunError: not a TFLite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    try:
        if content[4:8] != b"TFL3":
            raise ValueError("no TFLite file")
        model = schema.Model.GetRootAsModel(content, 0)
        codes = [model.OperatorCodes(number) for number in range(model.OperatorCodesLength())]
        found = set()
        for code in codes:
            # old files have the number in the first field alone, which ends at 127
            name = names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "unknown")
            custom = code.CustomCode()
            found.add(custom.decode("utf-8", "replace") if name == "CUSTOM" and custom else name)
    except Exception as error:  # a damaged one fails anywhere in the generated readers
        raise RunError(f"{source}: not a TFLite file that busmt exported ({type(error).__name__})") from error
    return found


def listed_hashes(folder: Path) -> dict[str, str]:
    """sha256 by path relative to the folder, as the manifest in it says; empty where it has none.

    Raises:
        RunError: the manifest is damaged.
    """
    manifest = folder / MANIFEST
    try:
        card = json.loads(read_bytes(manifest, _MAX_JSON_BYTES)) if manifest.exists() else {}
    except (ValueError, RecursionError) as error:
        raise RunError(f"{manifest}: damaged JSON file") from error
    except DataError as error:
        raise RunError(str(error)) from error
    listed = card.get("sha256", {}) if isinstance(card, dict) else {}
    return {str(name): str(value) for name, value in listed.items()} if isinstance(listed, dict) else {}


def _check_hashes(model: Path, files: list[Path]) -> bool:
    manifest = model.absolute().parent / MANIFEST
    listed = listed_hashes(manifest.parent)
    if not listed:
        return False
    folder = manifest.parent.resolve()
    names = {path: path.absolute().relative_to(manifest.parent).as_posix() for path in files}
    for path, name in names.items():
        if name not in listed:
            raise RunError(f"{path}: not in {manifest}; remove it, or export again with: busmt export")
        if not path.resolve().is_relative_to(folder):
            raise RunError(f"{path}: a link that leaves the folder")
        if file_hash(path) != listed[name]:
            raise RunError(f"{path}: differs from its sha256 in {manifest}; copy or export it again")
    if model.is_dir():
        prefix = f"{model.absolute().name}/"
        absent = [name for name in listed if name.startswith(prefix) and name not in names.values()]
        if absent:
            raise RunError(f"{manifest.parent / absent[0]}: is missing; copy or export it again")
    return True


def _check_graph(folder: Path, graph: Any) -> None:
    functions = {function.signature.name: list(function.node_def) for function in graph.graph_def.library.function}
    own = {graph.saver_def.save_tensor_name.split(":")[0], graph.saver_def.restore_op_name}
    saver = _reached([node for node in graph.graph_def.node if node.name in own], functions)
    outside = [node for node in graph.graph_def.node if node.name not in own]
    outside += [node for name, nodes in functions.items() if name not in saver for node in nodes]
    for node in outside:
        called = saver & set(_called(node))
        if called:
            raise RunError(f"{folder}: a signature calls the function {min(called)}, which reads and writes files")
    _check_operations(folder, (node.op for node in outside), TENSORFLOW_OPS | set(functions) - saver)
    kept = [node.op for name in saver for node in functions[name]]
    _check_operations(folder, kept, TENSORFLOW_OPS | _SAVER_OPS | saver)


def _reached(nodes: Iterable[Any], functions: Mapping[str, list[Any]]) -> set[str]:
    """Names of the functions that the nodes call, and those that these call."""
    found: set[str] = set()
    open_nodes = list(nodes)
    while open_nodes:
        for name in _called(open_nodes.pop()):
            if name in functions and name not in found:
                found.add(name)
                open_nodes += functions[name]
    return found


def _called(node: Any) -> Iterator[str]:
    yield node.op  # a function may be called by its name
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        if value.HasField("list"):
            yield from (function.name for function in value.list.func)


def _check_operations(model: Path, names: Iterable[str], accepted: Iterable[str]) -> None:
    unknown = set(names) - set(accepted)
    if unknown:
        raise RunError(f"{model}: the operation {min(unknown)} is not accepted in a model of busmt")


def _keras_objects(value: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(module, class, registered name) of everything that Keras would build."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value.get("module"), value["class_name"], value.get("registered_name")
        for item in value.values():
            yield from _keras_objects(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keras_objects(item)


def _is_accepted(module: Any, name: Any, registered: Any) -> bool:
    if not isinstance(name, str):
        return False
    if isinstance(module, str) and module.startswith("busmt.model."):
        import keras

        import busmt.model.network  # noqa: F401  registers the layers

        return registered == f"busmt>{name}" and keras.saving.get_registered_object(registered) is not None
    if module in _KERAS_MODULES:
        return name.isidentifier()
    return (module, name) in ((None, "__keras_tensor__"), ("keras", "DTypePolicy")) or (
        (module == "keras.layers" and name in KERAS_LAYERS)
        or (module in ("keras", "keras.models", "keras.src.models.functional") and name in _KERAS_MODELS)
    )


def _check_weights(path: Path, content: bytes) -> None:
    import h5py

    def check(group: Any) -> None:
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise RunError(f"{path}: its weights are a link to something else ({name})")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise RunError(f"{path}: its weights lie in another file ({name})")
            else:
                check(item)

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            check(file)
    except (OSError, KeyError, ValueError, RuntimeError, RecursionError, MemoryError, TypeError) as error:
        raise RunError(f"{path}: cannot be loaded as a Keras model (damaged weights)") from error
