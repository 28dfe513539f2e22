"""Every error that Promptdial raises on purpose, with its HTTP status and its stable code.

PromptdialError
├── InvalidRequest      422 invalid_request      a field is wrong; ``.field`` names it
│   └── OutOfSupport    422 out_of_support       a target that the training data doesn't hold
├── InputTooLong        413 input_too_long
├── Overloaded          429 overloaded           no place, or none in time; ``.retry_after_s`` says when to come back
├── DeadlineExceeded    504 deadline_exceeded
├── Cancelled           499 cancelled            the caller went away
├── Unavailable         503 unavailable          not started, draining, or a step failed
├── EngineError         500 engine_failed        a step failed; the requests in it are lost
├── DeviceError         500 device_unavailable   the asked-for device can't be had
├── BundleError         500 bundle_invalid       a bundle is missing, damaged or of another version
└── ExportError         500 export_failed        a checkpoint that can't be made into a bundle

An error's text is written for the person who has to act on it. Anything else that is raised is a defect.
"""

from __future__ import annotations


class PromptdialError(Exception):
    """Base of all; ``status`` and ``code`` are part of the HTTP interface."""

    status: int = 500
    code: str = "internal_error"


class InvalidRequest(PromptdialError):
    """A request that can't be obeyed; ``field`` is the request's name for what is wrong."""

    status = 422
    code = "invalid_request"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class OutOfSupport(InvalidRequest):
    """A target outside what the model was trained on, where the caller asked to be told."""

    code = "out_of_support"


class InputTooLong(PromptdialError):
    """More input tokens than the bundle's limit."""

    status = 413
    code = "input_too_long"


class Overloaded(PromptdialError):
    """The queue is full, or the request would miss its deadline.

    ``retry_after_s`` says when the same request is predicted to be taken. It is None where waiting won't help,
    since an idle engine wouldn't meet the deadline either.
    """

    status = 429
    code = "overloaded"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(PromptdialError):
    """The request's deadline passed before its work was done."""

    status = 504
    code = "deadline_exceeded"


class Cancelled(PromptdialError):
    """The caller cancelled the request."""

    status = 499
    code = "cancelled"


class Unavailable(PromptdialError):
    """The engine takes no work: not started, closing, or recovering from a failed step."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineError(PromptdialError):
    """A step failed under this request."""

    code = "engine_failed"


class DeviceError(PromptdialError):
    """A device was asked for that this machine or this ONNX Runtime can't give."""

    code = "device_unavailable"


class BundleError(PromptdialError):
    """A bundle that can't be served; the text names the file and the remedy."""

    code = "bundle_invalid"


class ExportError(PromptdialError):
    """A checkpoint or a source of weights that export can't use."""

    code = "export_failed"
