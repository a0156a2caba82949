"""Errors that busmt raises on purpose; the CLI prints them as one line and exits with 2."""


class BusmtError(Exception):
    """Something the user can mend: the message says what was wrong, where, and what to do."""


class ConfigError(BusmtError):
    """A configuration value or key that busmt does not accept."""


class DataError(BusmtError):
    """A file, folder, catalog or mask that cannot be used."""


class RunError(BusmtError):
    """A run folder that is missing, incomplete or in conflict with what was asked."""


class ExportError(BusmtError):
    """An export that could not be written or that disagrees with the Keras model."""


_EXTRAS = {
    "ai_edge_litert": "lite", "jax": "jax", "tf2onnx": "benchmark", "onnxruntime": "benchmark", "openvino": "benchmark",
}  # fmt: skip


class MissingPackageError(BusmtError):
    """A package of one of busmt's extras is not installed."""

    @classmethod
    def of(cls, error: ModuleNotFoundError, what: str = "this") -> "MissingPackageError":
        """The error for a failed import: what needs the package, and which extra brings it.

        Args:
            error: raised by the import.
            what: what was asked for, such as "busmt train".
        """
        package = (error.name or str(error)).split(".")[0]
        # PyTorch is in no extra: which build fits depends on the GPU
        wanted = package if package == "torch" else f'"busmt[{_EXTRAS.get(package, "train")}]"'
        return cls(f"{what} needs {package}, which is not installed: pip install {wanted}")
